"""What a lowered network consists of: native runs, and torch's operations between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from tapernet.engine.values import Run
from tapernet.nn.check import Check


@dataclass(frozen=True)
class Row:
    """One operation in an engine's summary.

    Args:
        name: path of the module, or the function's name.
        kernel: what computes it.
        takes_in: what else it does on the way.
    """

    name: str
    kernel: str
    takes_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stops:
    """What decides where a terminating layer's checks are at a budget."""

    checks: tuple[Check, ...]
    terms: int
    filters: int
    taps: int
    has_bias: bool
    input_runs: tuple[Run, ...]
    output_runs: tuple[Run, ...]

    def positions(self, kept: Sequence[int]) -> list[list[int]]:
        """Of each check and kept filter, its position."""
        terms = kept_channels(self.input_runs, kept) * self.taps + self.has_bias
        filters = kept_channels(self.output_runs, kept)
        return [check.positions(self.terms, terms, self.filters)[:filters] for check in self.checks]


@dataclass
class Native:
    """Consecutive operations that the kernels do.

    Args:
        network: the extension's network.
        inputs: nodes that it reads.
        outputs: nodes whose values leave it, and whether as features.
        stops: of each terminating convolution.
        images: of each value, for one of the network's.
    """

    network: Any
    inputs: list[fx.Node] = field(default_factory=list)
    outputs: list[tuple[fx.Node, bool]] = field(default_factory=list)
    stops: list[Stops] = field(default_factory=list)
    images: int = 1


@dataclass(frozen=True)
class ByTorch:
    """An operation that torch does."""

    node: fx.Node


@dataclass
class Lowered:
    """A network as steps in the order in which they run.

    Args:
        steps: native runs, and torch's operations between them.
        rows: of the summary.
        result: the node that the network returns.
        input: the node that it takes.
    """

    steps: list[Native | ByTorch]
    rows: list[Row]
    result: fx.Node
    input: fx.Node


def kept_channels(runs: Sequence[Run], kept: Sequence[int]) -> int:
    """Channels at a budget, from the kept count of each group."""
    return sum(size if group < 0 else kept[group] * repeat for size, group, repeat in runs)
