"""How wide each layer is for any choice of kept channels, without turning the dial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapernet.nn.group import Layout
from tapernet.nn.net import TaperedNet
from tapernet.nn.prefix import PrefixLayer

Kept = Sequence[int]
"""Kept channels of each channel group, in the order of `TaperedNet.channel_groups`."""


@dataclass(frozen=True)
class Side:
    """The features that a layer reads, or those that it writes.

    Args:
        fixed: features that are never cut.
        terms: (group, features for each channel of it).
    """

    fixed: int
    terms: tuple[tuple[int, int], ...]

    def features(self, kept: Kept) -> int:
        """How many there are."""
        return self.fixed + sum(kept[group] * repeat for group, repeat in self.terms)

    @staticmethod
    def of(layout: Layout, numbers: Mapping[int, int]) -> "Side":
        """A layout's, where `numbers` has the position of each group by its id."""
        fixed = sum(span.full for span in layout.spans if span.group is None)
        cut = [(numbers[id(span.group)], span.repeat) for span in layout.spans if span.group is not None]
        return Side(fixed, tuple(cut))


@dataclass(frozen=True)
class LayerSides:
    """What a layer that mixes channels reads and writes.

    Args:
        inputs: features read.
        outputs: features written.
        mixes: whether each output reads all inputs; not so in a grouped convolution, whose outputs alone count.
    """

    inputs: Side
    outputs: Side
    mixes: bool


def layer_sides(net: TaperedNet) -> dict[str, LayerSides]:
    """Each layer that mixes channels, by its path in `net.model`."""
    numbers = {id(group): i for i, group in enumerate(net.channel_groups)}
    return {
        path: LayerSides(Side.of(m.inputs, numbers), Side.of(m.outputs, numbers), m.__dict__.get("groups", 1) == 1)
        for path, m in net.model.named_modules()
        if isinstance(m, PrefixLayer)
    }
