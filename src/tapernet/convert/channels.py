"""Which channels of a model move together.

One walk over the model's torch.fx graph gives every value a layout of *channel sets*. Layers that mix channels start a
set of their own; everything else passes its input's on. An operation that needs two values to have the same channels,
such as a residual sum, joins their sets. What is not known to keep channels apart needs them whole. The rules, one for
each kind of operation, are in `tapernet.convert.rules`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import lcm
from typing import Any

import torch
from torch import Tensor, fx, nn

from tapernet.errors import TaperError
from tapernet.graph import Shapes, place, shape, trace
from tapernet.nn.switch import Switch


@dataclass(eq=False)
class ChannelSet:
    """Channels that are kept or dropped together. Sets are joined by pointing one at another.

    Args:
        name: path of the module that makes them.
        size: how many.
        whole: never cut, because the user, the input or the classes say so.
        multiple: kept counts are a multiple of this, as a grouped convolution needs.
    """

    name: str
    size: int
    whole: bool = False
    multiple: int = 1
    layers: list[str] = field(default_factory=list)
    parent: "ChannelSet | None" = None

    def root(self) -> "ChannelSet":
        """The set that this one was joined into."""
        return self if self.parent is None else self.parent.root()

    def join(self, other: "ChannelSet") -> None:
        """Makes the two one set, named after this one."""
        a, b = self.root(), other.root()
        if a is not b:
            a.whole |= b.whole
            a.multiple = lcm(a.multiple, b.multiple)
            a.layers += b.layers
            b.parent = a


@dataclass(frozen=True)
class Run:
    """A channel set as it stands in a value, `repeat` features for each channel."""

    channels: ChannelSet
    repeat: int = 1

    @property
    def width(self) -> int:
        """Features when nothing is cut."""
        return self.channels.root().size * self.repeat


Runs = tuple[Run, ...]


@dataclass(frozen=True)
class Value:
    """A tensor whose channels are followed: the runs along its dimension `dim`."""

    runs: Runs
    dim: int


@dataclass
class Use:
    """A layer that the budget cuts: what it reads and what it writes, and whether it mixes channels."""

    path: str
    inputs: Runs
    outputs: Runs
    mixes: bool


@dataclass(frozen=True)
class Refusal:
    """Why some channels must stay whole; an error if at the end of the walk they may be cut."""

    runs: Runs
    where: str
    reason: str


class ComputedArgument(Exception):
    """A rule needs a number that only a run of the model would tell."""


Rule = Callable[["Walk", fx.Node], Value | None]


@dataclass
class Walk:
    """State of the walk: the layers met, and the channels of each value.

    A value of None has no channels that are cut: it is the input, a parameter, a number, or made from whole channels.
    """

    modules: dict[str, nn.Module]
    keep: frozenset[nn.Module]
    uses: dict[str, Use] = field(default_factory=dict)
    values: dict[fx.Node, Value | None] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)

    def layer(self, node: fx.Node) -> Any:
        """The module that a node calls; of a layer with several versions, one of them."""
        module = self.modules[str(node.target)]
        return module.versions[0] if isinstance(module, Switch) else module

    def read(self, node: fx.Node, source: fx.Node, dim: int) -> Runs:
        """The runs of `source` along `dim`, which `node` takes for the channels."""
        value = self.values[source]
        if value is not None and value.dim == dim:
            return value.runs
        if value is not None:
            self.require_whole(node, value, f"takes dimension {dim} for channels, but they are dimension {value.dim}")
        return (Run(ChannelSet("input", shape(source)[dim], whole=True)),)

    def new(self, path: str, size: int, dim: int) -> Value:
        """A value with a channel set of its own, made by the layer at `path`."""
        return Value((Run(ChannelSet(path, size, layers=[path])),), dim)

    def cut(self, path: str, inputs: Runs, outputs: Value, *, mixes: bool = False) -> Value | None:
        """Notes a layer that the budget cuts. A layer that is used again must read the same channels as before."""
        known = self.uses.setdefault(path, Use(path, inputs, outputs.runs, mixes))
        if not line_up(known.inputs, inputs):
            raise TaperError(f"{path}: is used twice, on channels that do not line up, and cannot be tapered")
        return Value(known.outputs, outputs.dim)

    def require_whole(self, node: fx.Node, value: Value, reason: str) -> None:
        """Notes that these channels must not be cut."""
        self.refusals.append(Refusal(value.runs, place(node), reason))

    def refuse(self, node: fx.Node, reason: str) -> Value | None:
        """Notes that no channel that `node` reads may be cut, and returns None: its result is then whole, too."""
        for source in node.all_input_nodes:
            value = self.values[source]
            if value is not None:
                self.require_whole(node, value, reason)
        return None

    def check(self) -> None:
        """Raises TaperError for the first channels that must be whole and are not."""
        broken: dict[tuple[str, str], set[str]] = {}
        for refusal in self.refusals:
            roots = [run.channels.root() for run in refusal.runs]
            cut = {root.layers[0] for root in roots if not root.whole}
            if cut:
                broken.setdefault((refusal.where, refusal.reason), set()).update(cut)
        for (where, reason), layers in broken.items():
            raise TaperError(f"{where}: {reason}, so it cannot be tapered; "
                             f"keep={sorted(layers)} would leave its channels whole")  # fmt: skip


def find_channels(model: nn.Module, example: Tensor, keep: frozenset[str]) -> list[Use]:
    """The layers of `model` that a budget cuts, in order, with the channel sets that they read and write.

    Args:
        model: any module that torch.fx can trace, in eval mode.
        example: a batch of at least two inputs, shape (n, channels, ...).
        keep: paths of modules; no output of theirs, or of a module inside them, is cut.

    Raises:
        TaperError: the model cannot be traced, or holds something whose channels cannot be followed.
    """
    from tapernet.convert.rules import LAYERS

    graph = _trace(model, example)
    kept = frozenset(inner for path in keep for inner in model.get_submodule(path).modules())
    walk = follow(graph, model, kept)
    walk.check()
    called = {walk.modules[str(node.target)] for node in graph.nodes if node.op == "call_module"}
    for path, module in walk.modules.items():
        if type(module) in LAYERS and module not in called:
            raise TaperError(f"{path}: does not run in eval mode on the example, so its channels cannot be followed; "
                             f"remove it or put an nn.Identity in its place")  # fmt: skip
    return list(walk.uses.values())


def follow(graph: fx.Graph, model: nn.Module, keep: frozenset[nn.Module] = frozenset()) -> Walk:
    """The channels of every value of a model's graph, whose nodes have their shapes.

    Raises:
        TaperError: a layer is used twice, on channels that do not line up.
    """
    from tapernet.convert.rules import rule_for

    # One module may have several paths; torch.fx names it by any of them.
    walk = Walk(dict(model.named_modules(remove_duplicate=False)), keep)
    for node in graph.nodes:
        walk.values[node] = None
        if node.op == "output":
            for source in node.all_input_nodes:
                make_whole(walk.values[source])
        elif node.op.startswith("call_") and "shape" in node.meta:
            try:
                walk.values[node] = rule_for(walk, node)(walk, node)
            except ComputedArgument:
                walk.refuse(node, "has a computed argument")
        if node.op == "call_module" and walk.modules[str(node.target)] in walk.keep:
            make_whole(walk.values[node])
    return walk


def _trace(model: nn.Module, example: Tensor) -> fx.Graph:
    try:
        traced = trace(model)
    except Exception as error:  # fx raises whatever the model's forward raises on proxies
        raise TaperError(
            f"{type(model).__name__} cannot be traced by torch.fx, so its channels cannot be followed: {error}"
        ) from error
    shapes = Shapes(traced)
    try:
        with torch.no_grad():
            shapes.run(example.clone())  # it may change its input
    except Exception as error:  # whatever the model's forward raises
        raise TaperError(
            f"{shapes.place}: does not run on an example of shape {tuple(example.shape)} ({example.dtype}): {error}"
        ) from error
    return traced.graph


def make_whole(value: Value | None) -> None:
    """Says that these channels are never cut."""
    for run in value.runs if value else ():
        run.channels.root().whole = True


def line_up(a: Runs, b: Runs) -> bool:
    """Joins two values' channels pairwise; False, and nothing is joined, if they do not line up."""
    same = [(x.channels.root().size, x.repeat) for x in a] == [(y.channels.root().size, y.repeat) for y in b]
    if same:
        for x, y in zip(a, b, strict=True):
            x.channels.join(y.channels)
    elif all(run.channels.root().whole for run in (*a, *b)):
        return sum(run.width for run in a) == sum(run.width for run in b)
    return same


def widths(runs: Runs) -> int:
    """Features of all runs when nothing is cut."""
    return sum(run.width for run in runs)
