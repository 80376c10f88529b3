"""Multiply-accumulates and parameters of a network at its budget."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tapernet.convert.calibrate import standing_in
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import TaperedNet

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
COUNTED = (nn.Linear, *CONVOLUTIONS)


@dataclass(frozen=True)
class Macs:
    """MACs of one image.

    Args:
        usual: products with a weight, as most of the literature counts.
        paper: as both papers count, one more for each output of a layer with a bias (ET paper, section 2.1: a filter
            has H W K + 1).
    """

    usual: int
    paper: int


def layer_macs(net: nn.Module, image: Tensor) -> dict[str, Macs]:
    """MACs of `net` for one image, by the module that does them, in the order in which modules finish.

    Linear layers and convolutions are counted from the shapes that pass. Products that no such layer does (functional
    convolutions and linear maps, matrix products, attention) are counted by torch's FlopCounterMode, at two operations
    a MAC, under the module whose forward calls them; they have no bias of their own.

    Args:
        net: any module; a `TaperedNet` at the budget that is set, with batch-norm statistics for it or without.
        image: one input with or without a batch dimension of 1, shape ([1,] channels, height, width), or whatever else
            the network takes.
    """
    counts: dict[str, Macs] = {}
    # The values that pass do not matter, so statistics that are missing may be any.
    with torch.no_grad(), eval_mode(net), standing_in(net), _every_product_visible(), _counting(net, counts):
        net(image if _is_batch(net, image) else image[None])
    return counts


def _is_batch(net: nn.Module, image: Tensor) -> bool:
    """Whether the first dimension is a batch of 1: told by the network's input or first convolution, if it has one."""
    if isinstance(net, TaperedNet):
        return image.ndim == 1 + len(net.input_shape)
    first = next((m for m in net.modules() if isinstance(m, CONVOLUTIONS)), None)
    return image.shape[0] == 1 if first is None else image.ndim == 2 + len(first.kernel_size)


def total_macs(net: nn.Module, image: Tensor) -> Macs:
    """The sum over `layer_macs`."""
    counts = layer_macs(net, image).values()
    return Macs(sum(c.usual for c in counts), sum(c.paper for c in counts))


def count_parameters(net: nn.Module) -> int:
    """Numbers that the network needs at its budget; profiles are not among them, since they fold into weights."""
    parameters = net.active_parameters() if isinstance(net, TaperedNet) else net.parameters()
    return sum(p.numel() for p in parameters)


@contextmanager
def _every_product_visible() -> Iterator[None]:
    """Attention by its parts: torch's fused kernels hide their products from every counter."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _counting(net: nn.Module, counts: dict[str, Macs]) -> Iterator[None]:
    """Fills `counts` for the block."""
    with FlopCounterMode(display=False) as flops, ExitStack() as hooks:
        calls: list[list[int]] = []  # under way: operations before the call, and those that calls inside it did

        def before(module: nn.Module, inputs: object) -> None:
            calls.append([flops.get_total_flops(), 0])

        def after(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            start, inside = calls.pop()
            whole = flops.get_total_flops() - start
            if calls:
                calls[-1][1] += whole
            if isinstance(module, COUNTED):
                usual = _products(module, inputs[0], output)
                paper = usual + (output.numel() if module.bias is not None else 0)
            else:
                usual = paper = (whole - inside) // 2
            if usual:
                done = counts.get(path, Macs(0, 0))  # a shared layer runs more than once
                counts[path] = Macs(done.usual + usual, done.paper + paper)

        for path, module in net.named_modules():
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hook = partial(after, path or type(net).__name__)
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _products(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Products of one call, from the shapes that passed: they tell what the budget left."""
    if isinstance(module, nn.Linear):
        return y.numel() * x.shape[-1]
    assert isinstance(module, CONVOLUTIONS)
    groups = min(module.groups, x.shape[1])  # a depthwise layer keeps as many groups as channels
    # A transposed convolution spreads each input over a window of outputs.
    places, fan = (x, y.shape[1]) if isinstance(module, TRANSPOSED) else (y, x.shape[1])
    return places.numel() * (fan // groups) * prod(module.kernel_size)
