"""Convolutions over small feature maps by one matrix product, for training in bfloat16 on a CPU.

There oneDNN (torch 2.13) takes up to ten times as long as the product of the unfolded images and the weights would: for
the weight's gradient whenever an output map has few pixels, for the output itself and the input's gradient where it
also reads many weights for each. That is most of a VGG-16's training step. `benchmarks/training.py` measures it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MOST_PIXELS = 16
"""Of an output map, for a product to be the faster way to the weight's gradient."""
FEWEST_CHANNELS = 32
"""Of an input, for the same."""
FEW_PIXELS = 9
"""Of an output map, for a product to be the faster way to the output and the input's gradient, whatever the weights."""
MANY_WEIGHTS = 2**20
"""For the same at up to `MOST_PIXELS`: more than fit the cache of a core, which oneDNN reads for every image."""


class SmallMaps(TorchFunctionMode):
    """While it is entered, convolutions that autocast runs in bfloat16 on a CPU are done this way.

    Convolutions that it does not suit are left alone: strided, dilated, grouped or one-dimensional ones, large maps.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Takes the place of `torch.nn.functional.conv2d`; all else is called as it is."""
        if func is F.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    plain = groups == 1 and _pair(stride) == _pair(dilation) == (1, 1) and not isinstance(padding, str)
    if plain and input.dim() == 4 and weight.requires_grad and _in_bfloat16(input):
        taps, around = (weight.shape[2], weight.shape[3]), _pair(padding)
        height, width = _side(input, taps, around)
        # Greater padding would be cut off, not added, on the way back to the input's gradient.
        small = height * width <= MOST_PIXELS and around[0] < taps[0] and around[1] < taps[1]
        if small and weight.shape[1] >= FEWEST_CHANNELS:
            half = None if bias is None else bias.bfloat16()
            out: Tensor = ByProducts.apply(input.bfloat16(), weight.bfloat16(), half, around)  # type: ignore[no-untyped-call]
            return out
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _in_bfloat16(input: Tensor) -> bool:
    return (
        input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )  # fmt: skip


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class ByProducts(torch.autograd.Function):
    """A convolution of stride 1, by products wherever they are the faster way."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        """The convolution of (N, C, H, W) with (filters, C, taps down, taps across), zeros around."""
        ctx.save_for_backward(input, weight)
        ctx.padding = padding
        taps = (weight.shape[2], weight.shape[3])
        height, width = _side(input, taps, padding)
        if not _faster(height * width, weight):
            return F.conv2d(input, weight, bias, padding=padding)
        out = _product(input, weight.permute(2, 3, 1, 0).flatten(0, 2), taps, padding)
        return out if bias is None else out + bias[:, None, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        """Gradients of input, weight and bias."""
        (gradient,) = gradients
        input, weight = ctx.saved_tensors
        taps, padding = (weight.shape[2], weight.shape[3]), ctx.padding
        of_input = None
        if ctx.needs_input_grad[0] and _faster(input.shape[2] * input.shape[3], weight):
            turned = weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
            of_input = _product(gradient, turned, taps, (taps[0] - 1 - padding[0], taps[1] - 1 - padding[1]))
        elif ctx.needs_input_grad[0]:
            of_input = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_input, weight_gradient(input, gradient, taps, padding), of_bias, None


def weight_gradient(input: Tensor, gradient: Tensor, taps: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """That of (N, C, H, W) and the output's gradient (N, filters, h, w): (filters, C, taps down, taps across)."""
    by_filter = gradient.permute(1, 0, 2, 3).flatten(1) @ unfolded(input, taps, padding)
    return by_filter.view(len(by_filter), *taps, -1).permute(0, 3, 1, 2)


def unfolded(input: Tensor, taps: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The inputs that each output meets: (N * h * w, taps down * taps across * C) of (N, C, H, W)."""
    (down, across), (vertical, horizontal) = taps, padding
    pixels = F.pad(input.permute(0, 2, 3, 1), (0, 0, horizontal, horizontal, vertical, vertical))
    windows = pixels.unfold(1, down, 1).unfold(2, across, 1)  # (N, h, w, C, taps down, taps across)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)


def _product(input: Tensor, matrix: Tensor, taps: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The convolution with weights given as (taps down * taps across * C, filters)."""
    out = unfolded(input, taps, padding) @ matrix
    return out.view(len(input), *_side(input, taps, padding), -1).permute(0, 3, 1, 2)


def _side(input: Tensor, taps: tuple[int, int], padding: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the output."""
    return input.shape[2] + 2 * padding[0] - taps[0] + 1, input.shape[3] + 2 * padding[1] - taps[1] + 1


def _faster(pixels: int, weight: Tensor) -> bool:
    """Is a product the faster way to an output of so many pixels?"""
    return pixels <= FEW_PIXELS or (pixels <= MOST_PIXELS and weight.numel() >= MANY_WEIGHTS)
