"""Weight gradients of convolutions over small feature maps, by matrix products.

For bfloat16 on a CPU, oneDNN (torch 2.13) takes 3 to 4 times as long for the weight gradient of a convolution whose
output has few pixels as for that output itself, which is much of a VGG-16's training step. One matrix product for each
tap of the kernel takes a third of that time or less; `benchmarks/training.py` measures it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MOST_PIXELS = 16
"""Of an output map, for the products to be faster."""
FEWEST_CHANNELS = 32
"""Of an input, for the same."""


class SmallMaps(TorchFunctionMode):
    """While it is entered, convolutions that autocast runs in bfloat16 on a CPU get their weight gradients this way.

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
        (vertical, horizontal), (down, across) = _pair(padding), weight.shape[2:]
        height, width = input.shape[2] + 2 * vertical - down + 1, input.shape[3] + 2 * horizontal - across + 1
        if height * width <= MOST_PIXELS and weight.shape[1] >= FEWEST_CHANNELS:
            half = None if bias is None else bias.bfloat16()
            out: Tensor = ByTaps.apply(input.bfloat16(), weight.bfloat16(), half, _pair(padding))  # type: ignore[no-untyped-call]
            return out
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _in_bfloat16(input: Tensor) -> bool:
    return (
        input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )  # fmt: skip


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class ByTaps(torch.autograd.Function):
    """A convolution of stride 1 whose weight gradient is one matrix product for each tap of the kernel."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        """The convolution of (N, C, H, W) with (filters, C, taps down, taps across), zeros around."""
        ctx.save_for_backward(input, weight)
        ctx.padding = padding
        return F.conv2d(input, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        """Gradients of input, weight and bias."""
        (gradient,) = gradients
        input, weight = ctx.saved_tensors
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, [1, 1], ctx.padding, [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_input, by_taps(input, gradient, weight, ctx.padding), of_bias, None


def by_taps(input: Tensor, gradient: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """The weight's gradient: for each tap, the output's gradients times the pixels that the tap met."""
    filters, channels, down, across = weight.shape
    height, width = gradient.shape[2:]
    vertical, horizontal = padding
    pixels = F.pad(input.permute(0, 2, 3, 1), (0, 0, horizontal, horizontal, vertical, vertical))
    rows = gradient.permute(1, 0, 2, 3).reshape(filters, -1)
    result = weight.new_empty(filters, down, across, channels)
    for i in range(down):
        for j in range(across):
            result[:, i, j] = rows @ pixels[:, i : i + height, j : j + width].reshape(-1, channels)
    return result.permute(0, 3, 1, 2)
