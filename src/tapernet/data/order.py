"""In which order a training epoch visits its images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tapernet.errors import ConfigError


def batches(
    n: int,
    batch_size: int,
    generator: torch.Generator | None,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Iterator[Tensor]:
    """One epoch over `n` images: index tensors of `batch_size`, int64 on the CPU, that visit each image once.

    Args:
        n: how many images there are.
        batch_size: how many indices each tensor has; the last one has what is left.
        generator: the only source of the order; not used, and may be None, without `shuffle`.
        shuffle: a new random order; otherwise 0, 1, 2, ...
        drop_last: leave out a last tensor that is not full.

    Raises:
        ConfigError: a size below 1, shuffling without a generator, or a batch size that leaves no batch at all.
    """
    if n < 1:
        raise ConfigError(f"an epoch has at least one image, not {n}")
    if batch_size < 1:
        raise ConfigError(f"batch_size is at least 1, not {batch_size}")
    if drop_last and batch_size > n:
        raise ConfigError(f"batch_size {batch_size} is more than the {n} images, and drop_last leaves no batch")
    if not shuffle:
        order = torch.arange(n)
    elif generator is not None:
        order = torch.randperm(n, generator=generator, device=generator.device).cpu()
    else:
        raise ConfigError("shuffling needs a generator")
    return iter(torch.split(order[: n - n % batch_size] if drop_last else order, batch_size))
