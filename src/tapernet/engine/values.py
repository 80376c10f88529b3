"""What is known about a value of the network's graph before it is computed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from tapernet.convert.channels import follow
from tapernet.nn.group import ChannelGroup, Layout

Run = tuple[int, int, int]
"""Neighbouring channels: how many when nothing is cut, the number of the channel group that cuts them, or -1, and how
many of them belong to one channel of the group."""


@dataclass(frozen=True)
class Value:
    """A batch of images, or of features.

    Args:
        id: its number in the native network; -1 before it has one.
        runs: its channels.
        height: pixels, for the example that the network was compiled with; 1 for features.
        width: pixels.
        flat: whether PyTorch sees (batch, channels * height * width).
        images: its images for one of the network's.
    """

    id: int
    runs: tuple[Run, ...]
    height: int
    width: int
    flat: bool
    images: int

    @property
    def channels(self) -> int:
        """When nothing is cut."""
        return sum(size for size, *_ in self.runs)

    @property
    def pixels(self) -> int:
        """Of a channel."""
        return self.height * self.width

    @property
    def features(self) -> tuple[Run, ...]:
        """The runs as PyTorch sees them: of channels, or of all that was flattened."""
        n = self.pixels if self.flat else 1
        return tuple((size * n, group, repeat * n) for size, group, repeat in self.runs)

    def flattened(self) -> "Value":
        """As features."""
        return replace(self, flat=True)


class Groups:
    """Where a network's channel groups are, by their numbers.

    Args:
        groups: of a network with a dial.
        graph: the network's, at budget 1.0.
    """

    def __init__(self, groups: Sequence[ChannelGroup], graph: fx.GraphModule) -> None:
        self._numbers = {id(group): i for i, group in enumerate(groups)}
        self._by_layer = {path: i for i, group in enumerate(groups) for path in group.layers}
        self._values = follow(graph.graph, graph).values if groups else {}

    def runs(self, layout: Layout) -> tuple[Run, ...]:
        """The channels of a layer's input or output."""
        return tuple((s.full, -1 if s.group is None else self._numbers[id(s.group)], s.repeat) for s in layout.spans)

    def runs_of(self, node: fx.Node) -> tuple[Run, ...] | None:
        """The channels of a node's result, of shape (n, channels, ...); None if the budget cuts another dimension."""
        found, shape = self._values.get(node), shape_of(node)
        if found is None:
            return None if shape is None or len(shape) < 2 else ((shape[1], -1, 1),)
        if found.dim != 1:
            return None
        sets = [(run.width, run.channels.root(), run.repeat) for run in found.runs]
        return tuple((width, self._by_layer.get(next(iter(s.layers), ""), -1), repeat) for width, s, repeat in sets)


def shape_of(node: fx.Node) -> torch.Size | None:
    """The shape of a node's result for the example; None if it is not a tensor."""
    shape: torch.Size | None = node.meta.get("shape")
    return shape


def value_of(node: fx.Node, runs: tuple[Run, ...] | None) -> Value | None:
    """The value that a node of shape (n, channels, H, W) or (n, features) computes.

    None for what the kernels cannot read: other shapes and types, and what is not of the images one by one.
    """
    shape, images = shape_of(node), node.meta.get("images")
    if shape is None or images is None or len(shape) not in (2, 4) or node.meta["dtype"] != torch.float32:
        return None
    if runs is None or shape[1] != sum(size for size, *_ in runs):
        return None
    height, width = shape[2:] if len(shape) == 4 else (1, 1)
    return Value(-1, runs, height, width, len(shape) == 2, images)
