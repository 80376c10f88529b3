"""`lower`: from the graph of a network to runs of native operations, with torch in between for what they lack."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from tapernet.engine import layers
from tapernet.engine.functions import ADDITIONS, CONCATENATIONS, concatenated, module_of
from tapernet.engine.layers import Variant
from tapernet.engine.native import extension
from tapernet.engine.steps import ByTorch, Lowered, Native, Row, Stops
from tapernet.engine.values import Groups, Run, Value, value_of
from tapernet.errors import ConfigError
from tapernet.nn.norm import PrefixBatchNorm, PrefixBatchNorm1d, PrefixBatchNorm2d
from tapernet.nn.order import EXACT
from tapernet.nn.prefix import PrefixConv2d, PrefixLinear, PrefixModule
from tapernet.nn.rounded import weight_steps
from tapernet.nn.terminating import DENSE, TERMINATING, TerminatingConv2d, TerminatingPrefixConv2d

MOST_ROUNDED = (2**31 - 1) // (255 * 127)
"""Products of bytes whose sum a whole number of 32 bits is sure to hold."""
CONVOLUTIONS = (nn.Conv2d, PrefixConv2d, TerminatingConv2d, TerminatingPrefixConv2d)
LINEARS = (nn.Linear, PrefixLinear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, PrefixBatchNorm1d, PrefixBatchNorm2d)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
CLAMPS: dict[type[nn.Module], tuple[float, float]] = {nn.ReLU: (0.0, math.inf), nn.ReLU6: (0.0, 6.0)}
FREE = (-math.inf, math.inf)
NO_NORM = -1


def lower(
    graph: fx.GraphModule,
    groups: Groups,
    norms: Sequence[PrefixBatchNorm],
    ranges: int,
    kernels: str,
    choices: Mapping[str, str],
) -> Lowered:
    """The steps of a traced network.

    Args:
        graph: from `trace_with_shapes`.
        groups: the network's channel groups.
        norms: those with statistics for each budget, in the order of `Setting.norms`.
        ranges: of budgets that have a profile of their own.
        kernels: instruction set.
        choices: of the terminating layers' paths, `DENSE` or `TERMINATING`; the latter where nothing is said.

    Raises:
        ConfigError: the network returns something else than one tensor, or a terminating layer was not measured.
    """
    return _Lowering(graph, groups, norms, ranges, kernels, choices).run()


class _Unsupported(Exception):
    """What the kernels lack; the message says why torch does it."""


class _Lowering:
    def __init__(
        self,
        graph: fx.GraphModule,
        groups: Groups,
        norms: Sequence[PrefixBatchNorm],
        ranges: int,
        kernels: str,
        choices: Mapping[str, str],
    ) -> None:
        self.graph, self.groups, self.ranges = graph, groups, ranges
        self.kernels, self.choices = kernels, choices
        self.modules = dict(graph.named_modules())
        self.norms = {norm: number for number, norm in enumerate(norms)}
        self.values: dict[fx.Node, Value] = {}
        """What is known of each node's result; the ids belong to the native run under way."""
        self.native: Native | None = None
        self.steps: list[Native | ByTorch] = []
        self.rows: list[Row] = []

    def run(self) -> Lowered:
        start = result = None
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                start = node
                self.learn(node)
            elif node.op == "output":
                result = node.args[0]
            elif node not in self.values:  # otherwise an operation before it took it in
                self.place(node)
        self.close()
        if not isinstance(result, fx.Node):
            raise ConfigError("the engine runs networks that return one tensor")
        assert start is not None
        return Lowered(self.steps, self.rows, result, start)

    def place(self, node: fx.Node) -> None:
        """Makes a node a native operation, or else a step of torch's."""
        rows = len(self.rows)
        try:
            self.emit(node)
        except _Unsupported as reason:
            del self.rows[rows:]
            self.close()
            self.steps.append(ByTorch(node))
            name = str(node.target) if node.op == "call_module" else node.name
            self.rows.append(Row(name, f"torch: {reason}"))
            self.learn(node)

    def learn(self, node: fx.Node) -> None:
        """What is known of a result that torch computes."""
        if (value := value_of(node, self.groups.runs_of(node))) is not None:
            self.values[node] = value

    def emit(self, node: fx.Node) -> None:
        """Adds a node to the native run under way."""
        if node.op in ("call_function", "call_method") and node.target in ADDITIONS | CONCATENATIONS:
            return self.combine(node)
        module = self.modules[str(node.target)] if node.op == "call_module" else module_of(node)
        if module is None or len(node.all_input_nodes) < 1:
            raise _Unsupported("no kernel")
        self.apply(node, module, node.all_input_nodes[0])
        return None

    def apply(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        kinds = {type(version) for version in layers.versions_of(module)}
        rule = _RULES.get(next(iter(kinds))) if len(kinds) == 1 else None
        if rule is None:
            raise _Unsupported("no kernel")
        if source not in self.values:
            raise _Unsupported("its input is not a batch of images or features")
        rule(self, node, module, source)

    # Operations

    def convolution(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        versions = layers.versions_of(module)
        conv = versions[0]
        assert isinstance(conv, nn.Conv2d)
        if conv.padding_mode != "zeros":
            raise _Unsupported(f"padding mode {conv.padding_mode!r}")
        stops, relu = False, False
        if isinstance(conv, TerminatingConv2d):
            stops, relu = self.stopping(node, conv)
        value = self.take(source, conv)
        groups = conv.__dict__["groups"]
        runs = self.runs_out(conv, conv.out_channels)
        if stops and isinstance(conv, TerminatingConv2d):
            return self.terminating(node, conv, value, runs)
        weights = self.weights(versions)
        window = layers.window_of(conv)
        depthwise = groups == conv.in_channels == conv.out_channels and groups > 1 and len(weights) == 1
        if depthwise:
            runs = value.runs  # each channel where it was, in whatever runs
        finish = self.finish(node, runs, [layers.bias_variant(v, conv.out_channels) for v in versions], clamp=relu)
        if depthwise:
            number = self.network.depthwise(finish.name, value.id, weights[0], window, *finish.arguments)
        else:
            number = self.network.conv(finish.name, value.id, weights, runs, window, groups, False, *finish.arguments)
        self.done(finish, "depthwise" if depthwise else DENSE, number)

    def stopping(self, node: fx.Node, conv: TerminatingConv2d) -> tuple[bool, bool]:
        """Whether a terminating convolution stops early, and whether it ends in a ReLU."""
        rectifies = conv.options.rectifies
        if conv.options.order == EXACT or not conv.checks:
            return False, rectifies
        reader = self.reader(node)
        rectified = conv.rectified or rectifies or (reader is not None and self.clamp_of(reader) is not None)
        if self.choices.get(str(node.target)) == DENSE:
            return False, rectified
        if not rectified:
            raise _Unsupported("what it emits may matter below zero")
        if conv.__dict__["groups"] != 1:
            raise _Unsupported("checks in a grouped convolution")
        if self.ranges > 1:
            raise _Unsupported("checks under several profiles")
        if conv.rounds and conv.weight[0].numel() > MOST_ROUNDED:
            raise _Unsupported(f"sums of more than {MOST_ROUNDED:,} bytes' products")
        return True, True

    def terminating(self, node: fx.Node, conv: TerminatingConv2d, value: Value, runs: tuple[Run, ...]) -> None:
        mean = conv.input_mean.detach() if conv.options.order == "expected" else None
        if mean is not None and mean.isnan().any():
            raise ConfigError(f"{node.target}: its order needs the mean size of the inputs: call measure_inputs first")
        assert self.native is not None
        height, width = conv.kernel_size
        stops = Stops(
            conv.checks, conv.terms, conv.out_channels, height * width, conv.bias is not None, value.runs, runs
        )
        finish = self.finish(node, runs, [], clamp=True)
        high = finish.limits[1]
        thresholds = [check.thresholds(conv.out_channels) for check in conv.checks]
        bias = None if conv.bias is None else conv.bias.detach().contiguous()
        number = self.network.terminating(
            finish.name, value.id, layers.weight_of(conv, 0), runs, layers.window_of(conv), len(self.native.stops),
            thresholds, bias, conv.options.bias_first, mean, high,
            weight_steps(conv.weight) if conv.rounds else None,
        )  # fmt: skip
        self.native.stops.append(stops)
        self.done(finish, TERMINATING, number)

    def linear(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        versions = layers.versions_of(module)
        layer = versions[0]
        assert isinstance(layer, nn.Linear)
        value = self.take(source, layer)
        if not value.flat or layer.in_features != value.channels * value.pixels:
            raise _Unsupported("its input is not one row of features")
        runs = self.runs_out(layer, layer.out_features)
        finish = self.finish(node, runs, [layers.bias_variant(v, layer.out_features) for v in versions])
        shape = (layer.out_features, value.channels, value.height, value.width)
        weights = [w.view(shape) for w in self.weights(versions)]
        window = [value.height, value.width, 1, 1, 1, 1, 0, 0, 0, 0]
        number = self.network.conv(finish.name, value.id, weights, runs, window, 1, True, *finish.arguments)
        self.done(finish, DENSE, number)

    def normalise(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        if not self.foldable(module):
            raise _Unsupported("batch-norm over the batch itself")
        value = self.take(source, module, channelwise=True)
        if value.flat and value.pixels > 1:
            raise _Unsupported("batch-norm over flattened images")
        finish = self.finish(node, value.runs, *self.norm(module, value.channels))
        self.done(finish, "scale and shift", self.network.affine(finish.name, value.id, *finish.arguments))

    def rectify(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        value = self.take(source, channelwise=True)
        limits = CLAMPS[type(module)]
        number = self.network.affine(node.name, value.id, [layers.same_variant(value.channels)], NO_NORM, *limits)
        self.done(_Finish(self.name_of(node), [node], value), "scale and shift", number)

    def pool(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        axes = layers.pool_axes(module)
        if axes is None:
            raise _Unsupported("a pooling with dilation, indices or an open size")
        value = self.take(source, channelwise=True)
        if value.flat:
            raise _Unsupported("pooling over features")
        finish = self.finish(node, value.runs, [])
        average = isinstance(module, (nn.AvgPool2d, nn.AdaptiveAvgPool2d))
        divisor = int(getattr(module, "divisor_override", None) or 0)
        number = self.network.pool(finish.name, value.id, *axes, average, divisor, *finish.limits)
        self.done(finish, "average pooling" if average else "max pooling", number)

    def flatten(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        assert isinstance(module, nn.Flatten)
        if module.start_dim != 1 or module.end_dim not in (-1, 3):
            raise _Unsupported("flattening over other dimensions than channels, height and width")
        self.values[node] = self.values[source].flattened()
        self.alias(node, source)

    def combine(self, node: fx.Node) -> None:
        """A sum of two values, or values one after the other."""
        concatenation = node.target in CONCATENATIONS
        sources = concatenated(node) if concatenation else () if node.kwargs else node.args
        if not sources or not all(isinstance(s, fx.Node) and s in self.values for s in sources):
            raise _Unsupported("no kernel")
        known = [self.values[s] for s in sources]  # type: ignore[index]
        if len({(v.height, v.width, v.images) for v in known}) > 1 or any(v.flat and v.pixels > 1 for v in known):
            raise _Unsupported("values of different shapes")
        if not concatenation and (len(known) != 2 or known[0].runs != known[1].runs):
            raise _Unsupported("a sum of something else than two values of the same channels")
        taken = [self.take(s, channelwise=True) for s in sources]  # type: ignore[arg-type]
        if concatenation:
            runs = tuple(run for v in taken for run in v.runs)
            value = replace(taken[0], runs=runs)
            number = self.network.concat(node.name, [v.id for v in taken])
            self.done(_Finish(node.name, [node], value), "concatenation", number)
            return
        finish = self.finish(node, taken[0].runs, [])
        self.done(finish, "sum", self.network.add(finish.name, taken[0].id, taken[1].id, *finish.limits))

    # What operations take in and leave

    @property
    def network(self) -> Any:
        if self.native is None:
            self.native = Native(extension().Network(self.kernels))
        return self.native.network

    def take(self, source: fx.Node, layer: nn.Module | None = None, channelwise: bool = False) -> Value:
        """A node's value in the native run under way, where it becomes an input if it comes from elsewhere.

        Several profiles are applied here, where a layer reads; a single one is in the weights.
        """
        value = self.values[source]
        if isinstance(layer, PrefixModule):
            runs = self.groups.runs(layer.inputs)
            uncut = all(group < 0 for _, group, _ in (*runs, *value.runs))
            if runs != value.features and not uncut:
                raise _Unsupported("its input has other channels than it expects")
        if self.native is not None and self.native.images != value.images:
            self.close()
            value = self.values[source]
        if value.id < 0 or self.native is None:
            if value.flat:  # what was flattened comes as features
                value = replace(value, runs=value.features, height=1, width=1)
            narrow = all(self.reads_narrow(user) for user in source.users)
            value = replace(value, id=self.network.input(value.runs, narrow))
            assert self.native is not None
            self.native.inputs.append(source)
            self.native.images = value.images
            self.values[source] = value
        mixes = isinstance(layer, (PrefixConv2d, PrefixLinear)) and layer.__dict__.get("groups", 1) == 1
        if self.ranges > 1 and mixes and not channelwise:
            return self.weighed(source, value, layer)  # type: ignore[arg-type]
        return value

    def weighed(self, source: fx.Node, value: Value, layer: PrefixModule) -> Value:
        """A value times its profile, which differs between ranges of budgets."""
        per_pixel = value.pixels if value.flat else 1
        gammas = [layers.profile_of(layer.inputs, r) for r in range(self.ranges)]
        if all(gamma is None for gamma in gammas):
            return value
        ones = torch.ones(value.channels * per_pixel)
        variants = [((ones if g is None else g)[::per_pixel].contiguous(), torch.zeros(value.channels)) for g in gammas]
        number = self.network.affine(f"{source.name} profile", value.id, variants, NO_NORM, *FREE)
        self.rows.append(Row(f"{source.name} profile", "scale and shift"))
        return replace(value, id=number)

    def weights(self, versions: Sequence[nn.Module]) -> list[Tensor]:
        """The weights of each version; a single profile is folded in, several are applied to the values."""
        return [layers.weight_of(v, None if self.ranges > 1 else 0) for v in versions]

    def runs_out(self, layer: nn.Module, channels: int) -> tuple[Run, ...]:
        return self.groups.runs(layer.outputs) if isinstance(layer, PrefixModule) else ((channels, -1, 1),)

    def reads_narrow(self, user: fx.Node) -> bool:
        """Whether a node reads a block of few channels: convolutions over all channels, and linear layers."""
        module = self.modules.get(str(user.target)) if user.op == "call_module" else module_of(user)
        if isinstance(module, nn.Flatten):
            return all(self.reads_narrow(next_user) for next_user in user.users)
        layer = layers.versions_of(module)[0] if module is not None else None
        if isinstance(layer, TerminatingConv2d) and layer.checks and self.choices.get(str(user.target)) != DENSE:
            return False
        if self.ranges > 1 and isinstance(layer, PrefixModule) and layers.profile_of(layer.inputs, 0) is not None:
            return False
        return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.__dict__["groups"] == 1)

    def finish(
        self,
        node: fx.Node,
        runs: tuple[Run, ...],
        variants: list[Variant],
        norm: int = NO_NORM,
        *,
        clamp: bool = False,
    ) -> "_Finish":
        """What an operation does with its sums; it takes in a batch-norm and a ReLU that nothing else reads.

        Args:
            node: the operation.
            runs: channels of its result.
            variants: scale and shift of each range of budgets, or of all; none if the kernel has neither.
            norm: number of the batch-norm that it is.
            clamp: whether a ReLU belongs to it.
        """
        covered, took = [node], []
        reader = self.reader(node)
        if variants and norm == NO_NORM and reader is not None and not clamp:
            module = self.modules.get(str(reader.target)) if reader.op == "call_module" else None
            if type(module) in NORMS and module is not None and self.foldable(module):
                (of_norm,), norm = self.norm(module, len(variants[0][0]))
                variants = [layers.chain(v, of_norm) for v in variants]
                covered.append(reader)
                took.append("batch-norm")
                reader = self.reader(reader)
        limits = (0.0, math.inf) if clamp else FREE
        if reader is not None and (limits_of_reader := self.clamp_of(reader)) is not None:
            limits = limits_of_reader
            covered.append(reader)
            took.append("ReLU")
        elif clamp:
            took.append("ReLU")
        value = value_of(covered[-1], runs)
        if value is None:
            raise _Unsupported("its output is not a batch of images or features")
        return _Finish(self.name_of(node), covered, value, tuple(took), (variants, norm, *limits), limits)

    def norm(self, module: nn.Module, channels: int) -> tuple[list[Variant], int]:
        """A batch-norm as scale and shift, or where the budget changes them, as the number of it."""
        if isinstance(module, PrefixBatchNorm):
            return [layers.same_variant(channels)], self.norms[module]
        return [layers.norm_variant(module)], NO_NORM

    def reader(self, node: fx.Node) -> fx.Node | None:
        """What alone reads a value; None if several do."""
        return next(iter(node.users)) if len(node.users) == 1 else None

    def clamp_of(self, node: fx.Node) -> tuple[float, float] | None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else module_of(node)
        return CLAMPS.get(type(module)) if module is not None else None

    def foldable(self, norm: nn.Module) -> bool:
        if isinstance(norm, PrefixBatchNorm):
            return norm.track_running_stats
        return getattr(norm, "running_mean", None) is not None

    def name_of(self, node: fx.Node) -> str:
        return str(node.target) if node.op == "call_module" else node.name

    def done(self, finish: "_Finish", kernel: str, number: int) -> None:
        """Records what an operation computes, under every node that it covers."""
        for node in finish.covered:
            self.values[node] = replace(finish.value, id=number)
        self.rows.append(Row(finish.name, kernel, finish.took))

    def alias(self, node: fx.Node, source: fx.Node) -> None:
        """A node that is another's value: where torch needs it, torch does it."""
        if self.values[node].id < 0:
            self.take(source)
            self.values[node] = replace(self.values[node], id=self.values[source].id)
        self.rows.append(Row(self.name_of(node), "nothing to do"))

    def close(self) -> None:
        """Ends the native run under way: values that others read leave it."""
        native, self.native = self.native, None
        if native is None:
            return
        taken = {self.values[node].id for node in native.inputs}
        for node, value in self.values.items():
            if value.id >= 0 and any(user not in self.values for user in node.users):
                if value.id not in taken:
                    native.network.output(value.id)
                    native.outputs.append((node, value.flat))
                elif node.op != "placeholder" and node not in native.inputs:
                    self.steps.append(ByTorch(node))  # another name for an input: a view
            self.values[node] = replace(value, id=-1)
        if native.outputs:
            self.steps.append(native)


@dataclass(frozen=True)
class _Finish:
    """An operation with what it takes in.

    Args:
        name: in the summary.
        covered: its node, and those that it takes in.
        value: what the last of these computes, the shape that torch gives it.
        took: what it takes in, in words.
        arguments: variants, number of the batch-norm, and limits, as the kernels take them.
        limits: what its result is clamped to.
    """

    name: str
    covered: list[fx.Node]
    value: Value
    took: tuple[str, ...] = ()
    arguments: tuple[Any, ...] = ()
    limits: tuple[float, float] = FREE


_Rule = Callable[[_Lowering, fx.Node, nn.Module, fx.Node], None]
_RULES: dict[type[nn.Module], _Rule] = {
    **dict.fromkeys(CONVOLUTIONS, _Lowering.convolution),
    **dict.fromkeys(LINEARS, _Lowering.linear),
    **dict.fromkeys(NORMS, _Lowering.normalise),
    **dict.fromkeys(POOLS, _Lowering.pool),
    **dict.fromkeys(CLAMPS, _Lowering.rectify),
    nn.Flatten: _Lowering.flatten,
}
