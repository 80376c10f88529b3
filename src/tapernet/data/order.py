"""In which order a training epoch visits its images."""

import torch
from torch import Tensor

from tapernet.errors import ConfigError


def batches(n: int, batch_size: int, generator: torch.Generator, least: int = 1) -> list[Tensor]:
    """One epoch over `n` images in a new random order: index tensors, int64 on the CPU, that visit each image once.

    Args:
        n: how many images there are.
        batch_size: how many indices each tensor has; the last one has what is left.
        generator: the only source of the order.
        least: a last tensor of fewer is joined to the one before, as batch-norm has no variance of a single image.

    Raises:
        ConfigError: a size below 1.
    """
    if n < 1:
        raise ConfigError(f"an epoch has at least one image, not {n}")
    if batch_size < 1:
        raise ConfigError(f"batch_size is at least 1, not {batch_size}")
    order = torch.randperm(n, generator=generator, device=generator.device).cpu()
    parts = list(torch.split(order, batch_size))
    if len(parts) > 1 and len(parts[-1]) < least:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
