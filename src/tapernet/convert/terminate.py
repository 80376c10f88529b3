"""`terminate`: the convolutions of a model whose negative outputs do not matter become ones that may stop early."""

import copy
import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tapernet.errors import DataError, TerminationError
from tapernet.graph import trace as trace_as_it_is
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import TaperedNet
from tapernet.nn.order import EXACT, Termination
from tapernet.nn.prefix import PrefixConv2d
from tapernet.nn.terminating import TerminatingConv2d, TerminatingPrefixConv2d

# What operations do to values below zero. A new operation is one more name here.
RECTIFIERS = {nn.ReLU, nn.ReLU6, F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, "relu", "relu_"}
"""Make them zero."""
SELECTORS = {
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten,
    F.dropout, F.dropout2d, F.max_pool2d, F.adaptive_max_pool2d, torch.max_pool2d,
    torch.flatten, torch.cat, torch.reshape, "flatten", "reshape", "view", "contiguous",
}  # fmt: skip
"""Pass each on or drop it in favour of a greater one, so that a ReLU before would do what the ReLU after does."""
AVERAGES = {nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, "mean"}
SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
"""Mix them with others; what goes in without negative values comes out without."""
NON_NEGATIVE = RECTIFIERS | {nn.Sigmoid, torch.sigmoid, "sigmoid"}
CLAMPS = {torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_, "clamp", "clamp_", "clamp_min", "clamp_min_"}
"""Do what a ReLU does to them if the least value is zero."""
SHAPES = {"size", "dim", "numel"}
"""Ask for a value's shape, not for the value."""


def terminate(
    model: nn.Module,
    example: Tensor,
    *,
    order: str = "magnitude",
    bias_first: bool = False,
    gradient: str = "exact",
    non_negative_input: bool = False,
) -> nn.Module:
    """A copy of `model` whose convolutions may stop early; `tapernet.place_checks` sets where.

    Every Conv2d is replaced whose outputs all reach a ReLU, or max pooling and then a ReLU, as in the ET paper: there a
    negative output is as good as zero. The copy has no checks yet and computes what the model computes. A batch-norm
    between such a convolution and its ReLU is folded into the convolution for good.

    Average pooling before the ReLU mixes negative outputs with positive ones, so that it matters how negative they are;
    such a convolution is left alone, as is one in a residual sum before the ReLU.

    Args:
        model: any model that torch.fx can trace, a sub-network from `tapernet.extract`, or a `TaperedNet`, which keeps
            its dial. Not changed.
        example: one batch of inputs, shape (n, channels, height, width), n > 0.
        order: in which order a filter adds its products: "magnitude", "expected" (then call `measure_inputs`), or
            "exact".
        bias_first: whether partial sums include the bias.
        gradient: "exact", "straight-through" or "gated"; the latter two take the ReLU into the layer and leave an
            Identity in its place.
        non_negative_input: promises that the model's input is never negative, for the first layer in the exact order.

    Returns:
        The copy. Its attribute `skipped` is a dictionary from the paths of the convolutions left alone to the reasons;
        `termination` holds the options, with which `terminate(model, example, **options)` builds the same layers again
        for `load_state_dict` to fill; `input_shape` is that of one input. `tapernet.save` keeps all this.

    Raises:
        TerminationError: no convolution qualifies, or the model is already terminated, cannot be traced, does not run
            on the example, is not in single or double precision, has a weight that is not finite, or calls layers from
            a plain list.
        DataError: an example without images.
        ConfigError: an unknown option.
    """
    options = Termination(order=order, bias_first=bias_first, gradient=gradient)
    _check_model(model)
    if example.dim() == 0 or len(example) == 0:
        raise DataError("the example is a batch of zero images")
    stopping = copy.deepcopy(model)
    inner = stopping.model if isinstance(stopping, TaperedNet) else stopping
    assert isinstance(inner, nn.Module)
    survey = _Survey(trace(inner), inner, options, non_negative_input)
    plans, skipped = survey.plans()
    if not plans:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped.items()) or "it has no Conv2d module"
        raise TerminationError(f"{type(model).__name__}: no convolution can stop early ({reasons})")
    for plan in plans:
        _apply(plan, inner, options)
    _check_run(stopping, example)
    _check_replaced(inner)
    prefix = "model." if inner is not stopping else ""
    stopping.skipped = {prefix + path: reason for path, reason in skipped.items()}  # type: ignore[assignment]
    stopping.termination = {  # type: ignore[assignment]
        "order": order, "bias_first": bias_first, "gradient": gradient, "non_negative_input": non_negative_input,
    }  # fmt: skip
    if not isinstance(stopping, TaperedNet):
        stopping.input_shape = tuple(example.shape[1:])  # type: ignore[assignment]
    return stopping


def unterminated(model: nn.Module) -> nn.Module:
    """A copy that computes everything: plain convolutions in the place of those that may stop early.

    Args:
        model: a network from `terminate` without a dial, or a sub-network that `extract` took from one with a dial.
    """
    # A deep copy looks up what is copied already, so the plain layers stand wherever the others did.
    plain: dict[int, Any] = {id(m): _plain(m) for m in model.modules() if isinstance(m, TerminatingConv2d)}
    return copy.deepcopy(model, plain)


def _plain(layer: TerminatingConv2d) -> nn.Module:
    shape: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    kernel: Any = layer.kernel_size
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, kernel, bias=layer.bias is not None, **shape)
    conv.to(layer.weight)
    conv.load_state_dict({name: value for name, value in layer.state_dict().items() if name in ("weight", "bias")})
    for name, parameter in conv.named_parameters():
        parameter.requires_grad_(getattr(layer, name).requires_grad)
    conv.train(layer.training)
    return nn.Sequential(conv, nn.ReLU()) if layer.options.rectifies else conv


def trace(model: nn.Module) -> fx.GraphModule:
    """The model's graph in eval mode, with this library's layers as single nodes.

    Raises:
        TerminationError: torch.fx cannot trace it.
    """
    try:
        return trace_as_it_is(model)
    except Exception as error:  # fx raises whatever the model's forward raises on proxies
        raise TerminationError(f"{type(model).__name__} cannot be traced by torch.fx: {error}") from error


@dataclass(frozen=True)
class _Plan:
    """A convolution to replace; the batch-norm to fold into it and the ReLU to take in, if any."""

    path: str
    norm: str | None
    relu: str | None


class _Survey:
    """What becomes of each convolution of a graph, and why."""

    def __init__(self, graph: fx.GraphModule, model: nn.Module, options: Termination, non_negative_input: bool) -> None:
        self.modules = dict(model.named_modules())
        self.options, self.non_negative_input = options, non_negative_input
        self.calls: dict[str, list[fx.Node]] = {}
        for node in graph.graph.nodes:
            if node.op == "call_module":
                self.calls.setdefault(str(node.target), []).append(node)

    def plans(self) -> tuple[list[_Plan], dict[str, str]]:
        """The convolutions to replace, and the reasons for leaving the others."""
        plans, skipped = [], {}
        for path, module in self.modules.items():
            if isinstance(module, _ConvNd):
                plan = self._plan(path, module)
                if isinstance(plan, str):
                    skipped[path] = plan
                else:
                    plans.append(plan)
        return plans, skipped

    def _plan(self, path: str, conv: nn.Module) -> _Plan | str:
        """How to replace a convolution, or why not."""
        calls = self.calls.get(path, [])
        if not calls:
            return "the model does not call it by itself"
        if type(conv) not in (nn.Conv2d, PrefixConv2d):
            return f"{type(conv).__name__} is not a Conv2d"
        assert isinstance(conv, nn.Conv2d)
        norm = self._norm(path, conv)
        relu = self._own_relu(calls)
        reasons = [self._reason(conv, node, next(iter(node.users)) if norm else node) for node in calls]
        if self.options.rectifies and relu is None:
            reasons.append(f"its ReLU is not a module that serves it alone, which a {self.options.gradient} gradient "
                           f"needs")  # fmt: skip
        reason = next((r for r in reasons if r), None)
        return reason or _Plan(path, norm, relu if self.options.rectifies else None)

    def _reason(self, conv: nn.Conv2d, call: fx.Node, value: fx.Node) -> str | None:
        """Why a call of a convolution, whose result is `value`, cannot stop early."""
        if conv.padding_mode != "zeros":
            return f"its padding mode is {conv.padding_mode!r}, not 'zeros'"
        if self.options.order == EXACT and not self._non_negative(call.all_input_nodes[0]):
            return "its inputs may be negative, and the exact order needs that they are not"
        return self._obstacle(value)

    def _norm(self, path: str, conv: nn.Conv2d) -> str | None:
        """The batch-norm that reads the convolution and nothing else does, if it can be folded."""
        users = [user for node in self.calls[path] for user in node.users]
        if type(conv) is not nn.Conv2d or len(users) != 1 or self._kind(users[0]) is not nn.BatchNorm2d:
            return None
        name = str(users[0].target)
        norm = self.modules[name]
        assert isinstance(norm, nn.BatchNorm2d)
        return name if norm.running_mean is not None and len(self.calls[name]) == 1 else None

    def _obstacle(self, value: fx.Node) -> str | None:
        """Why it matters how negative a value is; None if it does not."""
        if not _readers(value):
            return "nothing reads its output"
        for user in _readers(value):
            kind = self._kind(user)
            if self._rectifies(user):
                continue
            reason = self._obstacle(user) if kind in SELECTORS else self._effect(user, kind)
            if reason is not None:
                return reason
        return None

    def _effect(self, user: fx.Node, kind: Any) -> str:
        if user.op == "output":
            return "no ReLU comes between it and the model's output"
        if kind in AVERAGES:
            return "it is averaged before any ReLU, so that negative outputs count"
        if kind in SUMS:
            return "it is summed with another value before any ReLU, so that negative outputs count"
        if isinstance(kind, type) and issubclass(kind, _BatchNorm):
            return "a batch-norm that cannot be folded comes before its ReLU"
        return f"{getattr(kind, '__name__', kind)} comes before any ReLU, so that negative outputs may count"

    def _non_negative(self, value: Any) -> bool:
        """Whether a value is surely not negative."""
        kind = self._kind(value)
        if value.op == "placeholder":
            return self.non_negative_input
        if kind in SUMS:
            return all(map(self._non_negative_term, (*value.args, *value.kwargs.values())))
        if kind in SELECTORS | AVERAGES:
            return all(self._non_negative(source) for source in value.all_input_nodes if not _is_shape(source))
        return kind in NON_NEGATIVE or self._rectifies(value)

    def _non_negative_term(self, term: Any) -> bool:
        """Of a sum: another value, or a number, which may also be the factor of one."""
        return self._non_negative(term) if isinstance(term, fx.Node) else isinstance(term, int | float) and term >= 0

    def _rectifies(self, node: fx.Node) -> bool:
        """Whether a node makes negative values zero."""
        kind = self._kind(node)
        if kind not in CLAMPS:
            return kind in RECTIFIERS
        least = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
        return isinstance(least, int | float) and least == 0

    def _own_relu(self, calls: list[fx.Node]) -> str | None:
        """The nn.ReLU that a straight line leads to from the convolution's only call."""
        node = calls[0]
        while len(calls) == len(_readers(node)) == 1:
            (node,) = _readers(node)
            kind = self._kind(node)
            if kind is nn.ReLU:
                path = str(node.target)
                return path if len(self.calls[path]) == 1 else None
            values = [source for source in node.all_input_nodes if not _is_shape(source)]
            if (kind not in SELECTORS and kind is not nn.BatchNorm2d) or len(values) != 1:
                return None
        return None

    def _kind(self, node: fx.Node) -> Any:
        """The module's class, or the function or method that is called."""
        return type(self.modules[str(node.target)]) if node.op == "call_module" else node.target


def _readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read a node's value, those left out that only ask for its shape."""
    return [user for user in node.users if not _is_shape(user)]


def _is_shape(node: fx.Node) -> bool:
    """Whether a node is a shape or was taken from one, as the size in `y.view(y.size(0), -1)`."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    if node.op == "call_function" and node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and _is_shape(node.args[0])
    return node.op == "call_method" and node.target in SHAPES


def _apply(plan: _Plan, model: nn.Module, options: Termination) -> None:
    conv = model.get_submodule(plan.path)
    assert isinstance(conv, nn.Conv2d)
    if plan.norm is not None:
        norm = model.get_submodule(plan.norm)
        assert isinstance(norm, nn.BatchNorm2d)
        _fold(conv, norm)
        _replace(model, plan.norm, nn.Identity())
    kind = TerminatingPrefixConv2d if isinstance(conv, PrefixConv2d) else TerminatingConv2d
    layer = kind.from_conv(conv, options, rectified=True)
    _replace(model, plan.path, layer.train(conv.training))
    if plan.relu is not None:
        _replace(model, plan.relu, nn.Identity())


def _replace(model: nn.Module, path: str, new: nn.Module) -> None:
    """Puts a module in another's place under each of its names, as the model may call it by any of them."""
    old = model.get_submodule(path)
    for name in [name for name, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(name, new)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Puts what the batch-norm does in eval mode into the convolution's weight and bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    # Where the convolution had no bias, torch's is one that does not train; in a frozen model none should.
    trains = any(p.requires_grad for module in (conv, norm) for p in module.parameters())
    conv.weight, conv.bias = weight, nn.Parameter(bias.detach(), trains)


def _check_model(model: nn.Module) -> None:
    name = type(model).__name__
    if any(isinstance(module, TerminatingConv2d) for module in model.modules()):
        raise TerminationError(f"{name} is already terminated: set other checks, or start from the plain model")
    for path, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TerminationError(f"{path} is {parameter.dtype}: early termination works in float32 or float64")
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise TerminationError(f"{path} has a value that is not finite")


def _check_run(model: nn.Module, example: Tensor) -> None:
    try:
        with torch.no_grad(), eval_mode(model):
            model(example)
    except Exception as error:
        raise TerminationError(
            f"{type(model).__name__} does not run on the example of shape {tuple(example.shape)}: {error}"
        ) from error


def _check_replaced(model: nn.Module) -> None:
    """Refuses a model that also calls modules by no name of theirs, as from a plain list: it calls the old ones."""
    try:
        trace(model)
    except TerminationError as error:
        raise TerminationError(f"{error} (it seems to keep a module in a plain list or dictionary as well; use "
                               f"nn.ModuleList or nn.ModuleDict)") from error  # fmt: skip
