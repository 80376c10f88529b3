"""Multiply-accumulates and parameters of a network at its budget."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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
    """MACs of each Linear and convolution of `net` for one image, in the order in which they run.

    Args:
        net: any module; a `TaperedNet` at the budget that is set, with batch-norm statistics for it or without.
        image: one input with or without a batch dimension of 1, shape ([1,] channels, height, width), or as many
            dimensions of space as the network's convolutions have.
    """
    if image.ndim == _dimensions(net) - 1:
        image = image[None]
    counts: dict[str, Macs] = {}
    # The values that pass do not matter, so statistics that are missing may be any.
    stand_in: AbstractContextManager[None] = standing_in(net) if isinstance(net, TaperedNet) else nullcontext()
    with torch.no_grad(), eval_mode(net), stand_in, _counting(net, counts):
        net(image)
    return counts


def _dimensions(net: nn.Module) -> int:
    """Of a batch of inputs."""
    if isinstance(net, TaperedNet):
        return 1 + len(net.input_shape)
    first = next((m for m in net.modules() if isinstance(m, CONVOLUTIONS)), None)
    return 4 if first is None else 2 + len(first.kernel_size)


def total_macs(net: nn.Module, image: Tensor) -> Macs:
    """The sum over `layer_macs`."""
    counts = layer_macs(net, image).values()
    return Macs(sum(c.usual for c in counts), sum(c.paper for c in counts))


def count_parameters(net: nn.Module) -> int:
    """Numbers that the network needs at its budget; profiles are not among them, since they fold into weights."""
    parameters = net.active_parameters() if isinstance(net, TaperedNet) else net.parameters()
    return sum(p.numel() for p in parameters)


@contextmanager
def _counting(net: nn.Module, counts: dict[str, Macs]) -> Iterator[None]:
    handles: list[RemovableHandle] = []

    def count(name: str) -> RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            usual = _products(module, inputs[0], output)
            bias = output.numel() if module.bias is not None else 0
            before = counts.get(name, Macs(0, 0))  # a shared layer runs more than once
            counts[name] = Macs(before.usual + usual, before.paper + usual + bias)

        return net.get_submodule(name).register_forward_hook(hook)

    try:
        handles += [count(name) for name, module in net.named_modules() if isinstance(module, COUNTED)]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _products(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Products of one call, from the shapes that passed: they tell what the budget left."""
    if isinstance(module, nn.Linear):
        return y.numel() * x.shape[-1]
    assert isinstance(module, CONVOLUTIONS)
    groups = min(module.groups, x.shape[1])  # a depthwise layer keeps as many groups as channels
    # A transposed convolution spreads each input over a window of outputs.
    places, fan = (x, y.shape[1]) if isinstance(module, TRANSPOSED) else (y, x.shape[1])
    return places.numel() * (fan // groups) * prod(module.kernel_size)
