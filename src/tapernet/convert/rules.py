"""What each kind of operation does to channels: one rule, one entry in `MODULES` or `CALLS`.

A rule gets a node and returns the channels of its result, or None if they are whole. Functions and tensor methods are
looked up by name, since torch names both alike.
"""

from math import gcd, lcm
from typing import Any

from torch import fx, nn

from tapernet.convert.channels import (
    ComputedArgument,
    Rule,
    Run,
    Runs,
    Value,
    Walk,
    line_up,
    make_whole,
    widths,
)
from tapernet.graph import has_shape, shape
from tapernet.nn import norm, prefix
from tapernet.nn.prefix import PrefixModule

LAYERS: dict[type[nn.Module], type[PrefixModule]] = {
    layer.plain: layer
    for layer in (
        prefix.PrefixLinear, prefix.PrefixConv1d, prefix.PrefixConv2d, prefix.PrefixConv3d,
        prefix.PrefixConvTranspose2d, norm.PrefixBatchNorm1d, norm.PrefixBatchNorm2d, norm.PrefixBatchNorm3d,
        norm.PrefixInstanceNorm1d, norm.PrefixInstanceNorm2d, norm.PrefixInstanceNorm3d, norm.PrefixGroupNorm,
        norm.PrefixLayerNorm, norm.PrefixPReLU,
    )
}  # fmt: skip
"""Torch layers with parameters, and the prefix layer of each."""


def rule_for(walk: Walk, node: fx.Node) -> Rule:
    """The rule of a node; where there is none, one that needs its inputs whole."""
    if node.op == "call_module":
        return MODULES.get(_torch_type(walk.layer(node)), _unknown)
    if node.op == "call_function" and not _from_torch(node.target):
        return _unknown
    return CALLS.get(getattr(node.target, "__name__", str(node.target)), _unknown)


def _torch_type(module: nn.Module) -> type[nn.Module]:
    """The module's type; of this library's layers, that of the torch layer in whose place they stand."""
    kinds = type(module).__mro__ if isinstance(module, PrefixModule) else ()
    return next((kind for kind in kinds if kind in LAYERS), type(module))


def _from_torch(function: Any) -> bool:
    home = getattr(function, "__module__", None) or "torch"
    return home.partition(".")[0] in ("torch", "_operator", "operator")


def _unknown(walk: Walk, node: fx.Node) -> None:
    name = type(walk.layer(node)).__name__ if node.op == "call_module" else "this operation"
    walk.refuse(node, f"tapernet does not know how {name} moves channels")


def _argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    return _constant(node.kwargs.get(name, node.args[position] if len(node.args) > position else default))


def _constant(argument: Any) -> Any:
    computed: list[fx.Node] = []
    fx.map_arg(argument, computed.append)
    if computed:
        raise ComputedArgument
    return argument


def _source(node: fx.Node) -> fx.Node:
    """The first tensor that a node reads."""
    return node.all_input_nodes[0]


# Layers that mix channels.


def _linear(walk: Walk, node: fx.Node) -> Value | None:
    path, last = str(node.target), len(shape(node)) - 1
    inputs = walk.read(node, _source(node), last)
    return walk.cut(path, inputs, walk.new(path, shape(node)[last], last), mixes=True)


def _convolution(walk: Walk, node: fx.Node) -> Value | None:
    path = str(node.target)
    layer = walk.layer(node)
    inputs = walk.read(node, _source(node), 1)
    if layer.groups == 1:
        return walk.cut(path, inputs, walk.new(path, shape(node)[1], 1), mixes=True)
    outputs = _grouped(walk, node, inputs, layer.in_channels // layer.groups, layer.out_channels / layer.in_channels)
    return None if outputs is None else walk.cut(path, inputs, Value(outputs, 1))


def _grouped(walk: Walk, node: fx.Node, inputs: Runs, unit: int, growth: float) -> Runs | None:
    """Outputs of a convolution whose groups read `unit` channels each: the same channels, `growth` features for one."""
    if growth != int(growth):
        walk.refuse(node, "is a grouped convolution whose outputs are no multiple of its inputs")
        return None
    if not _whole_groups(inputs, unit):
        walk.refuse(node, f"is a grouped convolution whose groups of {unit} channels straddle a concatenation")
        return None
    return tuple(Run(run.channels, run.repeat * int(growth)) for run in inputs)


def _whole_groups(runs: Runs, unit: int) -> bool:
    """Makes the channels keep whole groups of `unit` features; False if a group would straddle two runs."""
    if any(run.width % unit for run in runs):
        return False
    for run in runs:
        root = run.channels.root()
        root.multiple = lcm(root.multiple, unit // gcd(unit, run.repeat))
    return True


# Layers with parameters for each channel.


def _per_channel(walk: Walk, node: fx.Node) -> Value | None:
    runs = walk.read(node, _source(node), 1)
    return walk.cut(str(node.target), runs, Value(runs, 1))


def _instance_norm(walk: Walk, node: fx.Node) -> Value | None:
    if walk.layer(node).track_running_stats:
        return walk.refuse(node, "is an instance norm with running statistics, which differ between budgets")
    return _per_channel(walk, node)


def _prelu(walk: Walk, node: fx.Node) -> Value | None:
    layer = walk.layer(node)
    return _per_channel(walk, node) if layer.num_parameters != 1 else _alone(walk, node)


def _group_norm(walk: Walk, node: fx.Node) -> Value | None:
    layer = walk.layer(node)
    unit = layer.num_channels // layer.num_groups
    if layer.num_groups > 1 and not _whole_groups(walk.read(node, _source(node), 1), unit):
        return walk.refuse(node, f"normalises groups of {unit} channels that straddle a concatenation")
    return _per_channel(walk, node)


def _layer_norm(walk: Walk, node: fx.Node) -> Value | None:
    layer = walk.layer(node)
    first, value = len(shape(node)) - len(layer.normalized_shape), walk.values[_source(node)]
    if value is None or value.dim < first:
        return value
    runs = walk.read(node, _source(node), first)
    return walk.cut(str(node.target), runs, Value(runs, first))


# Operations without parameters on one tensor.


def _alone(walk: Walk, node: fx.Node) -> Value | None:
    """Works on each number alone."""
    if sum(has_shape(n) for n in node.all_input_nodes) != 1:
        return walk.refuse(node, "reads several tensors here")
    return walk.values[_source(node)]


def _spatial(walk: Walk, node: fx.Node) -> Value | None:
    """Works on each channel alone, and takes dimension 1 for channels."""
    value = walk.values[_source(node)]
    if value is not None and value.dim != 1:
        return walk.refuse(node, f"takes dimension 1 for channels, but they are dimension {value.dim}")
    return _alone(walk, node) if has_shape(node) else walk.refuse(node, "returns several tensors")


def _pad(walk: Walk, node: fx.Node) -> Value | None:
    value = walk.values[_source(node)]
    if value is not None and len(_argument(node, 1, "pad")) > 2 * (len(shape(node)) - 1 - value.dim):
        return walk.refuse(node, "pads the channels")
    return _alone(walk, node)


def _softmax(walk: Walk, node: fx.Node) -> Value | None:
    layer = walk.layer(node) if node.op == "call_module" else None
    dim, value = layer.dim if layer else _argument(node, 1, "dim"), walk.values[_source(node)]
    if value is not None and (dim is None or dim % len(shape(node)) == value.dim):
        # Not `refuse`: over the classes, which are whole, it is the usual end of a network.
        walk.require_whole(node, value, "normalises over the channels")
    return value


def _reduce(walk: Walk, node: fx.Node) -> Value | None:
    """A mean, sum or maximum over some dimensions."""
    value, dims = walk.values[_source(node)], _argument(node, 1, "dim")
    if value is None:
        return None
    before = len(shape(_source(node)))
    gone = {d % before for d in ((dims,) if isinstance(dims, int) else dims or range(before))}
    if value.dim in gone or not has_shape(node):
        return walk.refuse(node, "reduces over the channels")
    keepdim = len(shape(node)) == before
    return Value(value.runs, value.dim if keepdim else value.dim - sum(d < value.dim for d in gone))


# Operations that move dimensions.


def _flat_arguments(node: fx.Node) -> tuple[Any, ...]:
    """The arguments after the tensor, given one by one or as one sequence."""
    rest = node.args[1:] or tuple(node.kwargs.values())
    return tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else tuple(rest)


def _permute(walk: Walk, node: fx.Node) -> Value | None:
    value = walk.values[_source(node)]
    if value is None:
        return None
    return Value(value.runs, [d % len(shape(node)) for d in _constant(_flat_arguments(node))].index(value.dim))


def _transpose(walk: Walk, node: fx.Node) -> Value | None:
    value = walk.values[_source(node)]
    if value is None:
        return None
    a, b = (d % len(shape(node)) for d in _constant(_flat_arguments(node)))
    return Value(value.runs, {a: b, b: a}.get(value.dim, value.dim))


def _reordered(walk: Walk, node: fx.Node) -> Value | None:
    """Keeps the order of the numbers, as view and flatten do; a channel may become several features in a row."""
    value = walk.values[_source(node)]
    if value is None:
        return None
    before, after = shape(_source(node)), shape(node)
    ahead, width = before[: value.dim].numel(), before[value.dim]
    for dim, size in enumerate(after):
        if after[:dim].numel() == ahead and size % width == 0:
            return Value(tuple(Run(r.channels, r.repeat * size // width) for r in value.runs), dim)
    return walk.refuse(node, "splits the channels or mixes them with another dimension")


def _sized(walk: Walk, node: fx.Node) -> Value | None:
    """A view or reshape: as `_reordered`, to a given size."""
    return _refuse_constant(walk, node, _reordered(walk, node))


def _expand(walk: Walk, node: fx.Node) -> Value | None:
    value = walk.values[_source(node)]
    if value is None:
        return None
    dim = value.dim + len(shape(node)) - len(shape(_source(node)))
    return _refuse_constant(walk, node, Value(value.runs, dim))


def _refuse_constant(walk: Walk, node: fx.Node, value: Value | None) -> Value | None:
    """A constant in the channels' place holds at one budget alone."""
    if value is not None:
        sizes = _flat_arguments(node)
        given = sizes[value.dim] if value.dim < len(sizes) else None
        if isinstance(given, int) and given > 1:
            reason = f"is given the constant {given} where the number of channels belongs (write -1 or use x.size())"
            walk.require_whole(node, value, reason)
    return value


def _index(walk: Walk, node: fx.Node) -> Value | None:
    """x[...] with slices and numbers, all of the channels taken."""
    source, index = _source(node), node.args[1]
    value = walk.values[source]
    if value is None:
        return None
    entries = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(entry, fx.Node) for entry in entries):
        return walk.refuse(node, "is indexed by a tensor or a computed number")
    missing = len(shape(source)) - sum(entry is not None and entry is not Ellipsis for entry in entries)
    at = next((i for i, entry in enumerate(entries) if entry is Ellipsis), len(entries))
    entries[at : at + 1] = [slice(None)] * missing
    read = written = 0
    for entry in entries:
        if entry is not None and read == value.dim:
            if entry != slice(None):
                return walk.refuse(node, "takes some of the channels")
            return Value(value.runs, written)
        read += entry is not None
        written += not isinstance(entry, int)
    raise AssertionError(node)


# Operations on several tensors.


def _elementwise(walk: Walk, node: fx.Node) -> Value | None:
    """Number by number, broadcasting as torch does: the operands that have the channels must have the same ones."""
    operands = [n for n in node.all_input_nodes if has_shape(n)]
    # Dimensions are counted from the last, where broadcasting lines them up.
    values = [(walk.values[n], len(shape(n))) for n in operands]
    offsets = {ndim - value.dim for value, ndim in values if value is not None}
    if not offsets:
        return None
    if len(offsets) > 1:
        return walk.refuse(node, "combines values whose channels are different dimensions")
    offset = offsets.pop()
    channels = [v.runs for v, _ in values if v is not None]
    wide = [runs for runs in channels if widths(runs) > 1] or channels
    if not all(line_up(wide[0], other) for other in wide[1:]):
        return walk.refuse(node, "combines values whose channels do not line up")
    result = Value(wide[0], len(shape(node)) - offset)
    for operand in operands:
        # A parameter or the input has every channel at every budget, so what it is combined with has, too.
        if walk.values[operand] is None and len(shape(operand)) >= offset and shape(operand)[-offset] > 1:
            make_whole(result)
    return result


def _concatenate(walk: Walk, node: fx.Node) -> Value | None:
    """Along the channels, one after the other; along another dimension, the same channels in all."""
    sources = [n for n in node.all_input_nodes if has_shape(n)]
    found = [v for n in sources if (v := walk.values[n]) is not None]
    if not found:
        return None
    channels = found[0].dim
    if _argument(node, 1, "dim", 0) % len(shape(node)) != channels:
        return _elementwise(walk, node)
    sequence: Any = node.kwargs.get("tensors", node.args[0] if node.args else ())
    return Value(tuple(run for n in sequence for run in walk.read(node, n, channels)), channels)


MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Flatten: _reordered,
}
MODULES |= dict.fromkeys([nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d], _convolution)
MODULES |= dict.fromkeys([nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d], _per_channel)
MODULES |= dict.fromkeys([nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d], _instance_norm)
MODULES |= dict.fromkeys([nn.Softmax, nn.LogSoftmax], _softmax)
MODULES |= dict.fromkeys(
    [
        nn.Identity, nn.Dropout, nn.AlphaDropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU,
        nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink, nn.Softplus, nn.Softsign,
        nn.Softshrink, nn.Tanhshrink, nn.Threshold, nn.Sigmoid, nn.LogSigmoid, nn.Tanh,
    ],
    _alone,
)  # fmt: skip
MODULES |= dict.fromkeys(
    [
        nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
        nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
        nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample,
        nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d,
        nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad2d,
    ],
    _spatial,
)  # fmt: skip

CALLS: dict[str, Rule] = {
    "pad": _pad,
    "cat": _concatenate,
    "concat": _concatenate,
    "permute": _permute,
    "transpose": _transpose,
    "expand": _expand,
    "getitem": _index,
}
CALLS |= dict.fromkeys(
    [
        "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish",
        "hardswish", "hardsigmoid", "hardtanh", "hardtanh_", "softplus", "softsign", "sigmoid", "sigmoid_",
        "logsigmoid", "tanh", "tanh_", "clamp", "clamp_", "clip", "abs", "neg", "exp", "log", "sqrt", "rsqrt", "square",
        "pow", "dropout", "alpha_dropout", "contiguous", "clone", "detach", "to", "float", "half", "double", "bfloat16",
    ],
    _alone,
)  # fmt: skip
CALLS |= dict.fromkeys(
    [
        "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "feature_alpha_dropout", "max_pool1d", "max_pool2d",
        "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool2d", "adaptive_avg_pool1d",
        "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
        "adaptive_max_pool3d", "interpolate", "upsample",
    ],
    _spatial,
)  # fmt: skip
CALLS |= dict.fromkeys(
    [
        "add", "add_", "iadd", "sub", "sub_", "isub", "mul", "mul_", "imul", "multiply", "div", "div_", "truediv",
        "itruediv", "divide", "maximum", "minimum", "expand_as",
    ],
    _elementwise,
)  # fmt: skip
CALLS |= dict.fromkeys(["mean", "sum", "amax", "amin"], _reduce)
CALLS |= dict.fromkeys(["softmax", "log_softmax"], _softmax)
CALLS |= dict.fromkeys(["view", "reshape"], _sized)
CALLS |= dict.fromkeys(["flatten", "squeeze", "unsqueeze"], _reordered)
