"""What is known about a value of the network's graph before it is computed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor, fx

from tapernet.nn.group import ChannelGroup, Layout

Run = tuple[int, int]
"""Neighbouring channels: how many when nothing is cut, and the number of the channel group that cuts them, or -1."""


@dataclass(frozen=True)
class Value:
    """A batch of images, or of features.

    Args:
        id: its number in the native network; -1 before it has one.
        runs: its channels.
        height: pixels, for the example that the network was compiled with; 1 for features.
        width: pixels.
        flat: whether PyTorch sees (batch, channels * height * width).
    """

    id: int
    runs: tuple[Run, ...]
    height: int
    width: int
    flat: bool

    @property
    def channels(self) -> int:
        """When nothing is cut."""
        return sum(size for size, _ in self.runs)

    def flattened(self) -> "Value":
        """As features."""
        return replace(self, flat=True)


class Groups:
    """The numbers of a network's channel groups."""

    def __init__(self, groups: Iterable[ChannelGroup]) -> None:
        self._numbers = {id(group): i for i, group in enumerate(groups)}

    @property
    def any(self) -> bool:
        """Whether anything is cut at all."""
        return bool(self._numbers)

    def runs(self, layout: Layout) -> tuple[Run, ...]:
        """The channels of a layer's input or output."""
        return tuple((s.size, -1 if s.group is None else self._numbers[id(s.group)]) for s in layout.spans)


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's result for the example; None if it is not a tensor."""
    value = node.meta.get("example")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def value_of(node: fx.Node, runs: tuple[Run, ...], number: int = -1) -> Value | None:
    """The value that a node of shape (n, channels, H, W) or (n, features) computes; None for other shapes."""
    shape = shape_of(node)
    if shape is None or len(shape) not in (2, 4) or shape[1] != sum(size for size, _ in runs):
        return None
    height, width = shape[2:] if len(shape) == 4 else (1, 1)
    return Value(number, runs, height, width, flat=len(shape) == 2)
