"""Which channels of a model move together.

One walk over the model's torch.fx graph gives every value a layout of *channel sets*. Layers that mix channels (Linear,
Conv2d) start a set of their own; everything else passes its input's on. An operation that needs two values to have the
same channels, such as a residual sum, joins their sets. A new kind of operation is one rule here.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tapernet.errors import TaperError


@dataclass(eq=False)
class ChannelSet:
    """Channels that are kept or dropped together. Sets are joined by pointing one at another.

    Args:
        name: path of the module that makes them.
        size: how many.
        whole: never cut, because the user, the input or the classes say so.
    """

    name: str
    size: int
    whole: bool = False
    parent: "ChannelSet | None" = None

    def root(self) -> "ChannelSet":
        """The set that this one was joined into."""
        return self if self.parent is None else self.parent.root()

    def join(self, other: "ChannelSet") -> None:
        """Makes the two one set, named after this one."""
        a, b = self.root(), other.root()
        if a is not b:
            a.whole |= b.whole
            b.parent = a


@dataclass(frozen=True)
class Run:
    """A channel set as it stands in a value, `repeat` features for each channel."""

    channels: ChannelSet
    repeat: int = 1


Runs = tuple[Run, ...]


@dataclass
class Use:
    """A layer that mixes channels: what it reads and what it writes."""

    path: str
    inputs: Runs
    outputs: Runs


@dataclass
class Walk:
    """State of the walk: the layers met, and each value's channels (None: no channel dimension of its own)."""

    modules: dict[str, nn.Module]
    keep: frozenset[str]
    uses: dict[str, Use] = field(default_factory=dict)
    runs: dict[fx.Node, Runs] = field(default_factory=dict)

    def of(self, node: Any) -> Runs:
        """The channels of a value."""
        return self.runs[node]


Rule = Callable[[Walk, fx.Node], Runs]
MODULE_RULES: dict[type[nn.Module], Rule] = {}
CALL_RULES: dict[Any, Rule] = {}


def find_channels(model: nn.Module, example: Tensor, keep: frozenset[str]) -> list[Use]:
    """The channel-mixing layers of `model` in order, with the channel sets that they read and write.

    Args:
        model: any module that torch.fx can trace.
        example: one batch of inputs, shape (n, channels, ...).
        keep: paths of modules whose outputs stay whole.

    Raises:
        TaperError: the model cannot be traced, or holds something whose channels cannot be followed.
    """
    graph = _trace(model, example)
    walk = Walk(dict(model.named_modules()), keep)
    for node in graph.nodes:
        if node.op == "placeholder":
            walk.runs[node] = (Run(ChannelSet("input", _width(node), whole=True)),)
        elif node.op == "output":
            for value in node.all_input_nodes:
                for run in walk.of(value):
                    run.channels.root().whole = True
        else:
            walk.runs[node] = _rule(walk, node)(walk, node)
    return list(walk.uses.values())


def _trace(model: nn.Module, example: Tensor) -> fx.Graph:
    from torch.fx.passes.shape_prop import ShapeProp

    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:  # fx raises whatever the model's forward raises on proxies
        raise TaperError(f"{type(model).__name__} cannot be traced by torch.fx, so its channels cannot be followed: "
                         f"{error}") from error
    training = model.training
    try:
        with torch.no_grad():
            ShapeProp(traced.eval()).propagate(example)
    except Exception as error:
        raise TaperError(f"{type(model).__name__} does not run on the example of shape {tuple(example.shape)}: "
                         f"{error}") from error
    finally:
        model.train(training)
    return traced.graph


def _rule(walk: Walk, node: fx.Node) -> Rule:
    if node.op == "call_module":
        module = walk.modules[str(node.target)]
        for kind, rule in MODULE_RULES.items():
            if type(module) is kind:
                return rule
        raise TaperError(f"{node.target}: {type(module).__name__} cannot be tapered: "
                         f"tapernet does not know how it moves channels")
    if node.target in CALL_RULES:
        return CALL_RULES[node.target]
    what = getattr(node.target, "__name__", node.target)
    raise TaperError(f"{node.name}: {what} cannot be tapered: tapernet does not know how it moves channels")


def _width(node: fx.Node) -> int:
    shape: torch.Size = node.meta["tensor_meta"].shape
    return shape[1]


def _image_size(node: fx.Node) -> int:
    shape: torch.Size = node.meta["tensor_meta"].shape
    return shape[2:].numel()


def _mix(walk: Walk, node: fx.Node) -> Runs:
    """A layer that reads all its input's channels and writes new ones."""
    path = str(node.target)
    module = walk.modules[path]
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        raise TaperError(f"{path}: a grouped convolution cannot be tapered")
    if isinstance(module, nn.Linear) and len(node.meta["tensor_meta"].shape) != 2:
        raise TaperError(f"{path}: a Linear layer over more than (batch, features) cannot be tapered")
    if path in walk.uses:
        raise TaperError(f"{path}: is used twice in the model; a shared layer cannot be tapered")
    inputs = walk.of(node.args[0])
    outputs = (Run(ChannelSet(path, _width(node), whole=path in walk.keep)),)
    walk.uses[path] = Use(path, inputs, outputs)
    return outputs


def _same(walk: Walk, node: fx.Node) -> Runs:
    """Works on each channel alone."""
    return walk.of(node.args[0])


def _flatten(walk: Walk, node: fx.Node) -> Runs:
    """(n, C, H, W) to (n, C * H * W): each channel becomes a run of features."""
    before = node.args[0]
    assert isinstance(before, fx.Node)
    if len(node.meta["tensor_meta"].shape) != 2:
        raise TaperError(f"{node.target if node.op == 'call_module' else node.name}: "
                         f"only flattening to (batch, features) can be tapered")
    size = _image_size(before)
    return tuple(Run(r.channels, r.repeat * size) for r in walk.of(before))


def _join(walk: Walk, node: fx.Node) -> Runs:
    """Needs both operands to have the same channels."""
    values = [a for a in node.args if isinstance(a, fx.Node)]
    first = walk.of(values[0])
    for other in values[1:]:
        for a, b in zip(first, walk.of(other), strict=True):
            if a.channels.root().size != b.channels.root().size or a.repeat != b.repeat:
                raise TaperError(f"{node.name}: adds values whose channels do not line up")
            a.channels.join(b.channels)
    return first


def _concatenate(walk: Walk, node: fx.Node) -> Runs:
    """One after the other along the channels."""
    if node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0) != 1:
        raise TaperError(f"{node.name}: only concatenation along the channels can be tapered")
    return tuple(run for value in node.args[0] for run in walk.of(value))  # type: ignore[union-attr]


MODULE_RULES |= {nn.Linear: _mix, nn.Conv2d: _mix, nn.Flatten: _flatten}
MODULE_RULES |= dict.fromkeys(
    [
        nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardtanh, nn.Sigmoid,
        nn.Tanh, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    ],
    _same,
)  # fmt: skip
CALL_RULES |= dict.fromkeys(
    [
        F.relu, torch.relu, "relu", F.gelu, F.silu, F.leaky_relu, torch.sigmoid, F.dropout, "contiguous",
        F.max_pool2d, torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d,
    ],
    _same,
)  # fmt: skip
CALL_RULES |= dict.fromkeys([operator.add, operator.iadd, torch.add, "add", "add_"], _join)
CALL_RULES |= {torch.flatten: _flatten, "flatten": _flatten, torch.cat: _concatenate}
