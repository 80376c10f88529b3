"""Convolutions that stop early as one operator of torch's, so that a compiled or exported program keeps the kernels."""

import copy
import json
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.engine.compile import compile
from tapernet.errors import TerminationError
from tapernet.nn.check import Check
from tapernet.nn.order import EXACT, Termination
from tapernet.nn.terminating import TerminatingConv2d, terminating_layers

MOST_LAYERS = 64
"""Packed layers that are kept from one call to the next."""


def with_operators(net: nn.Module) -> nn.Module:
    """A copy of a terminated network whose layers with checks are single operators, `tapernet::terminating_conv2d`.

    It passes `torch.compile` and `torch.export` as any network does. There the operator stays whole: on the CPU it runs
    the native kernels, and elsewhere, in other precision or without them, what the layer does in torch. Whoever loads
    an exported program imports `tapernet` first, which registers the operator. The operator applies the ReLU, as every
    use of such a layer does; gradients go through what was emitted. It sees changes of the weights that torch counts,
    as those by optimisers and `load_state_dict`; of those made through `.data`, which torch does not count, it may run
    the weights of before.

    Args:
        net: from `tapernet.terminate`, without a dial (`tapernet.extract` makes one of a budget). Not changed.

    Raises:
        TerminationError: no layer has checks, or one has groups, a threshold above zero (but of a rounded sum with the
            bias) or another gradient than "exact", which the operator lacks.
    """
    layers = {path: layer for path, layer in terminating_layers(net).items() if layer.checks}
    if not layers:
        raise TerminationError(f"{type(net).__name__} has no layer with checks: call place_checks first")
    operators: dict[int, Any] = {id(layer): StoppingConv2d(path, layer) for path, layer in layers.items()}
    # A deep copy looks up what is copied already, so each operator stands wherever its layer did.
    return copy.deepcopy(net, operators)


class StoppingConv2d(nn.Module):
    """A terminating layer and its ReLU as one operator.

    Args:
        path: of the layer, for messages.
        layer: its weights are copied.

    Shapes: (batch, in_channels, H, W) to (batch, out_channels, H', W').

    Raises:
        TerminationError: as `with_operators`.
    """

    def __init__(self, path: str, layer: TerminatingConv2d) -> None:
        super().__init__()
        reason = _obstacle(layer)
        if reason:
            raise TerminationError(f"{path}: the operator has no {reason}")
        self.weight = copy.deepcopy(layer.weight)
        self.bias = copy.deepcopy(layer.bias)
        self.register_buffer("input_mean", layer.input_mean.clone())
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        self.window = ([*layer.stride], [top, left], [*layer.dilation])
        self.uneven = None if (left, top) == (right, bottom) else [0, right - left, 0, bottom - top]
        self.order, self.bias_first = layer.options.order, layer.options.bias_first
        self.checks = json.dumps([check.as_dict() for check in layer.checks])

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of what the layer emits."""
        if self.uneven:
            x = F.pad(x, self.uneven)
        out: Tensor = terminating_conv2d(
            x, self.weight, self.bias, self.input_mean, *self.window, self.order, self.bias_first, self.checks
        )
        return out


def _obstacle(layer: TerminatingConv2d) -> str | None:
    if layer.__dict__["groups"] != 1:
        return "groups"
    # What is passed on below them has the full sum's gradient only where it is a rounded sum, with the bias.
    like_full = layer.rounds and (layer.bias is None or layer.options.bias_first)
    if not like_full and max(max(check.thresholds(layer.out_channels)) for check in layer.checks) > 0:
        return "thresholds above zero"
    return f"{layer.options.gradient} gradient" if layer.options.rectifies else None


@torch.library.custom_op("tapernet::terminating_conv2d", mutates_args=())
def terminating_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, input_mean: Tensor, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], order: str, bias_first: bool, checks: str,
) -> Tensor:  # fmt: skip
    """ReLU(what a `TerminatingConv2d` emits) for x of shape (n, channels, H, W); `checks` is a list of them as JSON."""
    arguments = (weight, bias, input_mean, tuple(stride), tuple(padding), tuple(dilation), order, bias_first, checks)
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.relu(_layer(*arguments)(x))
    # A copy, since autograd does not save the tensors of inference mode that engines return.
    out: Tensor = PACKED.get(x, arguments)(x).clone()
    return out


@terminating_conv2d.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, input_mean: Tensor, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], order: str, bias_first: bool, checks: str,
) -> Tensor:  # fmt: skip
    return torch.empty_like(F.conv2d(x, weight, bias, stride, padding, dilation), memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, _, *window = inputs
    ctx.save_for_backward(x, weight, output)
    ctx.window, ctx.has_bias = window[:3], bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Where the result is above zero, it is the full sum, or this one rounded: the gradient of convolution and ReLU."""
    x, weight, output = ctx.saved_tensors
    grads = torch.ops.aten.convolution_backward(
        grad * (output > 0), x, weight, [weight.shape[0]] if ctx.has_bias else None, *ctx.window, False, [0, 0], 1,
        [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias],
    )  # fmt: skip
    return *grads, None, None, None, None, None, None, None


terminating_conv2d.register_autograd(_backward, setup_context=_keep)


def _layer(
    weight: Tensor, bias: Tensor | None, input_mean: Tensor, stride: tuple[int, ...], padding: tuple[int, ...],
    dilation: tuple[int, ...], order: str, bias_first: bool, checks: str,
) -> TerminatingConv2d:  # fmt: skip
    filters, channels, *kernel = weight.shape
    shape = tuple(kernel), stride, padding, dilation
    conv = nn.Conv2d(channels, filters, *shape, bias=bias is not None, device="meta")  # type: ignore[arg-type]
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    layer = TerminatingConv2d.from_conv(conv, Termination(order=order, bias_first=bias_first), rectified=True)
    layer.input_mean = input_mean
    layer.set_checks([] if order == EXACT else [Check(**check) for check in json.loads(checks)])
    return layer.eval()


class _Packed:
    """Engines of single layers, as long as their weights do not change.

    An entry holds its tensors, so that nothing else can come to lie where they are; torch counts changes in place. Of
    tensors made in inference mode, whose changes it does not count, an entry also holds copies, to compare with.
    """

    def __init__(self) -> None:
        self._engines: OrderedDict[tuple[Any, ...], tuple[Any, Any, list[tuple[Tensor, Tensor]]]] = OrderedDict()
        self._lock = Lock()

    def get(self, x: Tensor, arguments: tuple[Any, ...]) -> Any:
        key = tuple((a.data_ptr(), _version(a), a.shape) if isinstance(a, Tensor) else a for a in arguments)
        with self._lock:
            if key not in self._engines or not all(_same(a, copied) for a, copied in self._engines[key][2]):
                model = nn.Sequential(_layer(*arguments), nn.ReLU())
                uncounted = [(a, a.clone()) for a in arguments if isinstance(a, Tensor) and a.is_inference()]
                self._engines[key] = compile(model, torch.zeros(1, *x.shape[1:])), arguments, uncounted
                if len(self._engines) > MOST_LAYERS:
                    self._engines.popitem(last=False)
            self._engines.move_to_end(key)
            return self._engines[key][0]


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits: a mean size that was not measured is not a number, and equals nothing."""
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


PACKED = _Packed()
