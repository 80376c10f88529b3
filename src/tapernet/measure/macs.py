"""Multiply-accumulates and parameters of a network at its budget."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tapernet.nn.net import TaperedNet

COUNTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


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
        net: any module; a `TaperedNet` at the budget that is set.
        image: one input with or without a batch dimension of 1, shape ([1,] channels, height, width).
    """
    if image.ndim == 3:
        image = image[None]
    counts: dict[str, Macs] = {}
    training = net.training
    try:
        with torch.no_grad(), _counting(net.eval(), counts):
            net(image)
    finally:
        net.train(training)
    return counts


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
    assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    groups = min(module.groups, x.shape[1])  # a depthwise layer keeps as many groups as channels
    window = module.kernel_size[0] * module.kernel_size[1]
    # A transposed convolution spreads each input over a window of outputs.
    places, fan = (x, y.shape[1]) if isinstance(module, nn.ConvTranspose2d) else (y, x.shape[1])
    return places.numel() * (fan // groups) * window
