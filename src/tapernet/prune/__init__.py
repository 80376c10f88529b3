"""Smaller networks by leaving filters out: the baselines. A method is one file here whose function is registered."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.measure.inputs import Labelled, images_of
from tapernet.prune.filters import Filters
from tapernet.registry import Registry, unknown

PRUNERS: Registry[Callable[..., None]] = Registry("pruning method")
"""From the filters of a copy of the model, how many to keep by path, the images, and the method's own options."""


def prune_filters(
    model: nn.Module,
    data: Labelled | Tensor,
    *,
    method: str,
    ratio: float | Mapping[str, float] | None = None,
    keep: Mapping[str, int] | None = None,
    **options: Any,
) -> nn.Module:
    """A smaller plain copy of `model` with fewer filters in its convolutions.

    The last layer's outputs stay whole, and fully connected layers lose only the inputs that the filters made.

    Args:
        model: a CNN that `taper` takes, in which each convolution's filters feed one next layer, such as C10-Net and
            NiN; not changed.
        data: a data set, images and labels, or images (n, channels, height, width); "pfec" needs only their shape.
        method: one of `PRUNERS`.
        ratio: share of the filters to leave out, in [0, 1): one for all convolutions, or by path for some.
        keep: filters to keep, by path. Exactly one of ratio and keep is given.
        options: the method's own.

    Returns:
        The copy. Its attribute `kept` is a dictionary from the paths of its convolutions to their filters.

    Raises:
        ConfigError: an unknown method, option or path; both or neither of ratio and keep; one of them out of range.
        PruningError: a layer whose filters cannot be removed.
        DataError: no images.
    """
    place = PRUNERS[method]
    known = [p.name for p in inspect.signature(place).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise ConfigError(unknown(f"option of {method}", name, known))
    images = images_of(data)
    with torch.inference_mode(False):  # what is made in inference mode could not be trained
        smaller = copy.deepcopy(model)
        filters = Filters(smaller, images[:1].clone())
        place(filters, _counts(filters.widths, ratio, keep), images, **options)
    smaller.kept = filters.widths  # type: ignore[assignment]
    return smaller


def _counts(
    widths: Mapping[str, int], ratio: float | Mapping[str, float] | None, keep: Mapping[str, int] | None
) -> dict[str, int]:
    """Filters to keep, by path, for the layers that lose some."""
    if (ratio is None) == (keep is None):
        raise ConfigError("pruning needs either a ratio or the filters to keep")
    shares = ratio if isinstance(ratio, Mapping) else dict.fromkeys(widths, ratio or 0.0)
    asked: Mapping[str, float] = shares if keep is None else keep
    for path, value in asked.items():
        if path not in widths:
            raise ConfigError(unknown("convolution to prune", path, widths))
        if keep is not None and not (type(value) is int and 1 <= value <= widths[path]):
            raise ConfigError(f"{path} has {widths[path]} filters: 1 to all of them can be kept, not {value!r}")
        if keep is None and not (type(value) in (int, float) and 0 <= value < 1):
            raise ConfigError(f"a ratio of filters to leave out lies in [0, 1), not {value!r}")
    if keep is not None:
        return dict(keep)
    return {path: max(1, widths[path] - int(widths[path] * share + 1e-9)) for path, share in asked.items()}


from tapernet.prune import cp, pfec  # noqa: E402, F401 (each file registers itself)
