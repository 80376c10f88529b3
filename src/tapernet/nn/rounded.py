"""Sums of products in eight bits: whether an output will be negative, nearly without fail, at a fraction of the cost.

Not of the papers: a check that looks at all products, each made of a byte of input and a byte of weight, in place of
a few exact ones. With a threshold above zero such a sum stands for the small outputs, too. Processors multiply bytes
several times as fast as floats: AVX-512 VNNI four times, AMX more.
"""

from collections.abc import Callable

import torch
from torch import Tensor

MOST_WEIGHT = 127
MOST_INPUT, MOST_SIGNED_INPUT = 255, 127
HALF = 16
"""Bytes are multiplied in two halves, so that float32 holds the sums exactly, of so many products as are usual."""
MOST_USUAL = 2**24 // (HALF * MOST_WEIGHT)


def weight_steps(weight: Tensor) -> Tensor:
    """Of each filter, what its weights are rounded to multiples of, shape (filters,); weight (filters, K, H, W)."""
    most = weight.detach().abs().amax((1, 2, 3))
    return torch.where(most > 0, most / MOST_WEIGHT, 1.0)


def rounded_sums(
    convolve: Callable[[Tensor, Tensor], Tensor], input: Tensor, weight: Tensor, steps: Tensor, start: Tensor | None,
    full: Tensor,
) -> Tensor:  # fmt: skip
    """A convolution's sums with every weight and input rounded to eight bits, with the gradient of the full sums.

    Inputs are rounded to multiples of their image's largest over 255, or over 127 if some are negative. The sums of
    these whole numbers are exact, so that an engine comes to the same. An image that is not finite has its full sums.

    Args:
        convolve: the convolution without bias, from input and weight.
        input: shape (n, K, H, W).
        weight: shape (filters, K, H', W').
        steps: of each filter, see `weight_steps`.
        start: of each filter's sum, shape (filters,); None is zero.
        full: the convolution's result.

    Returns:
        The sums, shape of `full`.
    """
    with torch.no_grad(), torch.autocast(input.device.type, enabled=False):
        x = input.float()
        low, high = x.amin((1, 2, 3)).clamp(max=0), x.amax((1, 2, 3)).clamp(min=0)
        most = torch.maximum(high, -low)
        scale = torch.where(low < 0, float(MOST_SIGNED_INPUT), float(MOST_INPUT)) / most
        scale = torch.where(most > 0, scale, 1.0)[:, None, None, None]
        bytes_in = (x * scale).round()
        bytes_weight = (weight.float() / steps.float()[:, None, None, None]).round().clamp(-MOST_WEIGHT, MOST_WEIGHT)
        if weight[0].numel() > MOST_USUAL:
            bytes_in, bytes_weight = bytes_in.double(), bytes_weight.double()
        upper = (bytes_in / HALF).floor()
        whole = convolve(upper, bytes_weight).double() * HALF + convolve(bytes_in - upper * HALF, bytes_weight)
        sums = whole * steps.double()[:, None, None] / scale
        if start is not None:
            sums = sums + start[:, None, None]
        finite = scale.isfinite() & most.isfinite()[:, None, None, None] & (scale > 0)
        sums = torch.where(finite, sums.to(full.dtype), full)
    return sums + (full - full.detach()) if full.requires_grad and torch.is_grad_enabled() else sums
