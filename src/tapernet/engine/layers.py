"""What a layer is to the engine: its weights with the profile in them, its window, its scale and shift."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tapernet.nn.group import Layout
from tapernet.nn.prefix import PrefixModule
from tapernet.nn.switch import Switch

Variant = tuple[Tensor, Tensor]
"""Scale and shift of each channel, shape (channels,) each."""


def versions_of(layer: nn.Module) -> list[nn.Module]:
    """The layer itself, or what a `Switch` chooses among."""
    return list(layer.versions) if isinstance(layer, Switch) else [layer]


def profile_of(layout: Layout, budget_range: int) -> Tensor | None:
    """Coefficients of all features of a layout in a range of budgets; None where all are 1."""
    if all(span.group is None or span.group.flat for span in layout.spans):
        return None
    parts = []
    for span in layout.spans:
        if span.group is None:
            parts.append(torch.ones(span.full))
        else:
            gamma = span.group.gamma if span.group.trainable else span.group.gammas[budget_range]
            parts.append(gamma.detach().repeat_interleave(span.repeat))
    return torch.cat(parts)


def weight_of(layer: nn.Module, budget_range: int | None) -> Tensor:
    """The full weight; with a range, times the profile that the layer's inputs have there."""
    weight: Tensor = layer.get_parameter("weight").detach()
    grouped = layer.__dict__.get("groups", 1) != 1
    if budget_range is not None and isinstance(layer, PrefixModule) and not grouped:
        gamma = profile_of(layer.inputs, budget_range)
        if gamma is not None:
            weight = weight * gamma.view(-1, *[1] * (weight.dim() - 2))
    return weight.contiguous()


def window_of(conv: nn.Conv2d) -> list[int]:
    """Kernel, stride, dilation (height, width each), and padding: top, left, bottom, right."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return [*_pair(conv.kernel_size), *_pair(conv.stride), *_pair(conv.dilation), top, left, bottom, right]


def bias_variant(layer: nn.Module, filters: int) -> Variant:
    """A layer's bias as a shift."""
    scale, shift = same_variant(filters)
    bias = getattr(layer, "bias", None)
    return scale, shift if bias is None else bias.detach().contiguous()


def norm_variant(norm: nn.Module) -> Variant:
    """What a batch-norm that no budget cuts does in eval mode."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight.detach())
    return scale, (0 if norm.bias is None else norm.bias.detach()) - norm.running_mean * scale


def same_variant(channels: int) -> Variant:
    """What leaves every channel as it is."""
    return torch.ones(channels), torch.zeros(channels)


def chain(first: Variant, second: Variant) -> Variant:
    """One after the other."""
    return first[0] * second[0], first[1] * second[0] + second[1]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def pool_axes(pool: nn.Module) -> list[list[int]] | None:
    """Of rows and columns: kernel, stride, padding, whether to round up, whether to count padding, adaptive outputs.

    None for a pooling that the kernels do not have.
    """
    if isinstance(pool, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        sizes = pool.output_size if isinstance(pool.output_size, (tuple, list)) else (pool.output_size,) * 2
        if any(size is None for size in sizes) or getattr(pool, "return_indices", False):
            return None
        return [[1, 1, 0, 0, 0, int(size)] for size in sizes if size is not None]
    assert isinstance(pool, (nn.MaxPool2d, nn.AvgPool2d))
    if isinstance(pool, nn.MaxPool2d) and (pool.return_indices or _pair(pool.dilation) != (1, 1)):
        return None
    kernel = _pair(pool.kernel_size)
    stride = kernel if pool.stride is None else _pair(pool.stride)
    counted = int(getattr(pool, "count_include_pad", False))
    rest = int(pool.ceil_mode), counted, 0
    return [[k, s, p, *rest] for k, s, p in zip(kernel, stride, _pair(pool.padding), strict=True)]
