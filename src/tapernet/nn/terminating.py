"""A convolution whose sums of products may stop early: the reference, differentiable and without loops over outputs.

A filter adds its products in a fixed order. A check looks at the partial sum on the way and ends the filter if the sum
is low, since ReLU will most likely make the result zero (ET paper, section 4). Here every partial sum is a dense
convolution with the later weights at zero, so that nothing is saved in time: this layer says what comes out and what
a processor that stops would have saved.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, reduce
from itertools import combinations, pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.errors import ConfigError, DataError, FileError
from tapernet.nn.check import BITS, Check
from tapernet.nn.order import EXACT, ORDERS, Termination
from tapernet.nn.prefix import PrefixConv2d
from tapernet.nn.rounded import rounded_sums, weight_steps

DENSE, TERMINATING = "dense", "terminating"
"""What an engine may run a layer with checks as: computing everything, or stopping early."""
GATE_TEMPERATURE = 0.1
"""Of the gated gradient where no penalty gives one."""
UNIT_BYTES = 64 << 20
"""What the exact mode's counting holds at once, about."""


@dataclass(frozen=True)
class Outcome:
    """What one call of a terminating layer did, for whoever counts.

    Args:
        full: the full sums u, shape (batch, filters, H, W).
        stops: number of the check that stopped each, counted from 0, or -1; int8, same shape.
        emitted: what came of them, shape of `full`.
        savings: terms that a stop leaves out, n - c - 1 at position c (the check itself is one), by check and filter,
            shape (checks, filters); in the exact order, which has no checks, by output, shape of `full`.
        terms: n, the most that one output can cost.
    """

    full: Tensor
    stops: Tensor
    emitted: Tensor
    savings: Tensor
    terms: int

    @cached_property
    def stopped(self) -> Tensor:
        """Which outputs stopped early, bool."""
        return self.stops >= 0

    @property
    def done(self) -> Tensor:
        """Terms computed for each output, int32; slow beside `saved`, which counts."""
        done = torch.full_like(self.stops, self.terms, dtype=torch.int32)
        if self.savings.dim() == self.full.dim():
            return done - self.savings.to(torch.int32)
        for i, saving in enumerate(self.savings):
            done -= (self.stops == i) * saving[:, None, None].to(torch.int32)
        return done

    def saved(self, among: Tensor | None = None) -> Tensor:
        """Terms left out by each filter in each image, int64, shape (batch, filters).

        Args:
            among: outputs that count, bool, shape of `full`; all by default.
        """
        if self.savings.dim() == self.full.dim():
            return (self.savings if among is None else self.savings * among).sum((2, 3))
        total = torch.zeros(self.full.shape[:2], dtype=torch.int64, device=self.full.device)
        for i, saving in enumerate(self.savings):
            stopped = self.stopped if len(self.savings) == 1 else self.stops == i
            total += saving * count_true(stopped if among is None else stopped & among)
        return total


def count_true(mask: Tensor) -> Tensor:
    """How many of each filter's outputs in each image are true, int64; mask (batch, filters, H, W)."""
    # Bytes are added four times as fast as bools.
    return mask.view(torch.uint8).sum((2, 3), dtype=torch.int32).long()


@dataclass(frozen=True)
class _Stage:
    """A check of the moment's filters: the weights that come before it, and each filter's threshold and saving."""

    mask: Tensor | None  # none before a check of rounded sums
    threshold: Tensor
    saving: Tensor


class TerminatingConv2d(nn.Conv2d):
    """A Conv2d whose filters stop at a check if their partial sum is below its threshold, and emit that sum.

    Eq. 2 of the ET paper: u_t is the sum of the first c products, without the bias. A filter with u_t < 0 emits u_t,
    which the ReLU after it turns to zero; any other emits the full sum u.

    Args:
        arguments: those of torch's Conv2d; the padding mode must be "zeros".
        options: order of the terms, bias, gradient.
        rectified: promises that every use of the output is a ReLU, perhaps after max pooling. Then outputs stopped
            below zero get no gradient anyway, and training need not compute it.
        keywords: those of torch's Conv2d.

    Attributes:
        input_mean: E|x| of each input channel, shape (in_channels,), for the order "expected"; NaN until measured.
        observer: called with the `Outcome` of every call, if set.
        temperature: if set, a call in training leaves a differentiable estimate of its MACs for `mac_penalty`.
        threshold_moves: while thresholds learn (`learning_thresholds`), a parameter of shape (checks, filters), which
            moves each of them by `threshold_scale` times its value; else None.
        memo: if set, a list that the full sums of a call go to. Whoever runs the layer on the same input again, with
            other checks, hands the list back, and they are not computed anew.

    Shapes: (batch, in_channels, H, W) to (batch, out_channels, H', W'), or one image without the batch.

    Raises:
        ConfigError: another padding mode.

    Example:
        >>> layer = TerminatingConv2d(3, 32, 5, padding=2)
        >>> layer.set_checks([Check(share=0.05)])
        >>> layer(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 32, 32, 32])
    """

    def __init__(
        self, *arguments: Any, options: Termination | None = None, rectified: bool = False, **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self._set_up(options or Termination(), rectified)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, options: Termination, rectified: bool = False) -> Self:
        """The terminating layer that shares `conv`'s parameters."""
        layer = cls.__new__(cls)
        layer.__dict__.update(conv.__dict__)
        layer._buffers, layer._parameters = dict(conv._buffers), dict(conv._parameters)
        layer._set_up(options, rectified)
        return layer

    def _set_up(self, options: Termination, rectified: bool) -> None:
        if self.padding_mode != "zeros":
            raise ConfigError(f"a terminating convolution pads with zeros, not in mode {self.padding_mode!r}")
        self.options, self.rectified = options, rectified
        self._checks: tuple[Check, ...] = ()
        self.observer: Callable[[Outcome], None] | None = None
        self.temperature: float | None = None
        self.memo: list[Tensor] | None = None
        self._estimate: tuple[int, Tensor] | None = None
        self.threshold_scale = 1.0
        self.threshold_moves: nn.Parameter | None
        self.register_parameter("threshold_moves", None)
        self.input_mean: Tensor
        self.register_buffer("input_mean", self.weight.new_full((self.in_channels,), torch.nan))

    @property
    def terms(self) -> int:
        """n at full width: the weights of a filter, and its bias if it has one."""
        height, width = self.kernel_size
        groups: int = self.__dict__["groups"]  # a prefix layer's `groups` are those of the budget
        return self.in_channels // groups * height * width + (self.bias is not None)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks, first position first."""
        return self._checks

    @property
    def rounds(self) -> bool:
        """Whether its check is of a sum rounded to bytes."""
        return any(check.bits for check in self._checks)

    def set_checks(self, checks: Sequence[Check]) -> None:
        """Replaces the checks; none at all makes this a plain convolution.

        Raises:
            ConfigError: a position outside 1..n, values that are not one for each filter, positions that do not
                increase from check to check, or any check with the exact order.
        """
        if checks and self.options.order == EXACT:
            raise ConfigError("the exact order stops by itself: it takes no checks")
        if len(checks) > 1 and any(check.bits for check in checks):
            raise ConfigError("a check of rounded sums leaves nothing to the next one: it is the only one of its layer")
        positions = [check.positions(self.terms, self.terms, self.out_channels) for check in checks]
        for check in checks:
            highest = max(check.thresholds(self.out_channels))
            if check.bits and highest > 0 and self.options.gradient == "gated":
                raise ConfigError(f"a rounded sum below {highest} is passed on, which the gated gradient takes for 0")
        for of_filter in zip(*positions, strict=True):
            if any(a >= b for a, b in pairwise(p for p in of_filter if p < self.terms)):
                raise ConfigError("the positions of several checks increase from check to check")
        self._checks = tuple(checks)

    def learned_checks(self) -> tuple[Check, ...]:
        """The checks with their thresholds where learning has moved them so far, if they learn."""
        if self.threshold_moves is None:
            return self._checks
        placed = self.weight.new_tensor([check.thresholds(self.out_channels) for check in self._checks])
        moved: Tensor = placed + self.threshold_scale * self.threshold_moves.detach()
        moved = torch.where(moved.isfinite(), moved, placed)  # a training that diverged has an error of its own
        pairs = zip(self._checks, moved.tolist(), strict=True)
        return tuple(replace(check, threshold=thresholds) for check, thresholds in pairs)

    def __call__(self, input: Tensor) -> Any:
        """As any module's, with the input always by position, where the hooks of measurements look for it."""
        return super().__call__(input)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.dim() == 3:  # one image, as torch's convolutions take it; what counts below is of batches
            return self._conv_forward(input[None], weight, bias)[0]
        full = self._full_sums(input, weight, bias)
        if self.options.order == EXACT:
            return self._stop_exactly(input, weight, bias, full)
        estimate = self.training and torch.is_grad_enabled() and self.temperature is not None
        stages = self._stages(weight, bias)
        start = bias if self.options.bias_first else None
        gated = self.options.gradient == "gated" and torch.is_grad_enabled()
        learning = self._partial_sums_learn()
        with torch.set_grad_enabled(torch.is_grad_enabled() and (estimate or learning or gated)):
            partial = [self._partial_sums(input, weight, start, full, s) for s in stages]
        emitted, stops = full, None
        # Exact for finite sums, as the weight is 0 or 1; torch.where would take six times as long on a CPU.
        emit = torch.lerp if learning or not torch.is_grad_enabled() else _emit
        for i, (stage, u) in reversed(list(enumerate(zip(stages, partial, strict=True)))):
            stop = _below(u.detach(), stage.threshold.detach())
            emitted = emit(emitted, u, stop)
            if self.observer is not None:
                others = torch.full_like(full, -1, dtype=torch.int8) if stops is None else stops
                stops = torch.where(stop.bool(), i, others)
        if self.observer is not None:
            self.observer(_outcome(full, stops, emitted, stages, _terms(weight, bias)))
        soft = []
        if estimate or gated:
            temperature = self.temperature or GATE_TEMPERATURE
            soft = [_soft_stop(u, stage.threshold, temperature) for stage, u in zip(stages, partial, strict=True)]
        if estimate:
            self._estimate = _estimate(full, soft, stages, _terms(weight, bias))
        if gated:
            return _gated(emitted, full, soft)
        if self.options.gradient == "straight-through":
            return _straight_through(F.relu(emitted), F.relu(full))
        return F.relu(emitted) if self.options.rectifies else emitted

    def _partial_sums(self, input: Tensor, weight: Tensor, start: Tensor | None, full: Tensor, stage: _Stage) -> Tensor:
        convolve: Callable[..., Tensor] = super()._conv_forward
        if stage.mask is not None:
            return convolve(input, weight * stage.mask, start)
        if self.training:  # what is rounded hardly differs, and would cost as much again
            return full if start is not None or self.bias is None else full - self._kept(self.bias)[:, None, None]
        steps = self._kept(weight_steps(self.weight))
        return rounded_sums(lambda x, w: convolve(x, w, None), input, weight, steps, start, full)

    def _full_sums(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        full: Tensor = self.memo[0] if self.memo else super()._conv_forward(input, weight, bias)
        if self.memo == []:
            self.memo.append(full)
        # What is emitted is a tensor of its own, except without checks: then the next layer may work in place on it.
        return full if self.memo is None or self._checks else full.clone()

    def _stages(self, weight: Tensor, bias: Tensor | None) -> list[_Stage]:
        """The checks for the weights of the moment, which a budget may have cut."""
        if not self._checks:
            return []
        # Chosen anew at every call: training moves the weights, and the order is that of the weights as they are.
        scores = self._scores(weight.detach()).flatten(1)
        terms = _terms(weight, bias)
        stages = []
        for i, check in enumerate(self._checks):
            positions = self._kept(torch.tensor(check.positions(self.terms, terms, self.out_channels))).to(
                weight.device
            )
            thresholds = weight.new_tensor(check.thresholds(self.out_channels))
            if self.threshold_moves is not None:
                thresholds = thresholds + self.threshold_scale * self.threshold_moves[i]
            # At the end nothing is left to stop.
            thresholds = self._kept(thresholds).masked_fill(positions == terms, -torch.inf)
            before = positions.clamp(max=scores.shape[1])
            mask = None if check.bits else _highest(scores, before).view_as(weight)
            stages.append(_Stage(mask, thresholds[:, None, None], (terms - positions - 1).clamp(min=0)[:, None, None]))
        return stages

    def _order(self, weight: Tensor) -> Tensor:
        """The taps of each filter, first to last, shape (filters, K * H * W); ties in the order of memory."""
        return self._scores(weight).flatten(1).sort(dim=1, descending=True, stable=True).indices

    def _scores(self, weight: Tensor) -> Tensor:
        """What the order goes by, highest first, shape of the weight."""
        mean = self._kept_inputs(self.input_mean)
        if self.options.order == "expected" and mean.isnan().any():
            raise ConfigError(
                "the order 'expected' needs the mean size of the inputs: call measure_inputs(net, images)"
            )
        of_filter = mean.view(self.groups, -1).repeat_interleave(weight.shape[0] // self.groups, 0)
        return ORDERS[self.options.order](weight, of_filter[:, :, None, None])

    def _kept(self, filters: Tensor) -> Tensor:
        """Of one number for each filter, those of the filters that the budget keeps."""
        return filters

    def _kept_inputs(self, channels: Tensor) -> Tensor:
        """Of one number for each input channel, those of the channels that the budget keeps."""
        return channels

    def _partial_sums_learn(self) -> bool:
        """Whether the loss can depend on an emitted partial sum."""
        below_zero = self.threshold_moves is None and all(
            max(check.thresholds(self.out_channels)) <= 0 for check in self._checks
        )
        return self.options.gradient != "straight-through" and not (self.rectified and below_zero)

    def _stop_exactly(self, x: Tensor, weight: Tensor, bias: Tensor | None, full: Tensor) -> Tensor:
        """Emits the full sum: where a filter would stop both are negative, and ReLU makes them the same zero."""
        if (x < 0).any():
            raise DataError("the exact order needs inputs that are not negative, as they are after ReLU")
        if self.observer is not None:
            with torch.no_grad():
                done = self._done_exactly(x, weight, bias).view(full.shape)
            terms = _terms(weight, bias)
            stops = (done < terms).to(torch.int8) - 1
            self.observer(Outcome(full.detach(), stops, full.detach(), terms - done, terms))
        return full

    def _done_exactly(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Terms until the sum is negative, shape (batch, filters, H' * W'), int32."""
        x = F.pad(x, self._reversed_padding_repeated_twice)
        order, flat = self._order(weight), weight.flatten(1)
        one = F.unfold(x[:1], self.kernel_size, self.dilation, 0, self.stride)
        result = []
        for part in torch.split(x, max(1, UNIT_BYTES // (one.numel() * one.element_size() + 1))):
            columns = F.unfold(part, self.kernel_size, self.dilation, 0, self.stride)
            columns = columns.view(len(part), self.groups, -1, columns.shape[2])
            per_filter = [
                _until_negative(columns[:, f * self.groups // len(flat)][:, order[f]], flat[f, order[f]], b)
                for f, b in enumerate([None] * len(flat) if bias is None else bias)
            ]
            result.append(torch.stack(per_filter, 1))
        return torch.cat(result)

    def take_estimate(self) -> tuple[int, Tensor] | None:
        """MACs of the last call in training had nothing stopped, and the estimated share done; then forgets them."""
        estimate, self._estimate = self._estimate, None
        return estimate

    def get_extra_state(self) -> Tensor:
        """Options and checks as the bytes of a JSON document, so that a file of tensors can hold them."""
        state = {
            "options": asdict(self.options),
            "checks": [check.as_dict() for check in self._checks],
        }
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what `get_extra_state` gave, but for the gradient; raises FileError if it is something else.

        The gradient stays the layer's own: the ReLU is inside the layer or after it, which a state does not change, and
        checks that were placed with one gradient may be trained with another.
        """
        try:
            found = json.loads(bytes(state.tolist()))
            options = Termination(**found["options"])
            self.options, self._checks = replace(options, gradient=self.options.gradient), ()
            self.set_checks([Check(**check) for check in found["checks"]])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FileError(f"these are not the checks of this layer: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to a measurement or a training under way.

        A copy of the layer is not observed, and its thresholds do not learn but are where they are now.
        """
        parameters = {**self._parameters, "threshold_moves": None}
        of_now = {"_parameters": parameters, "_checks": self.learned_checks()}
        return {**self.__dict__, **of_now, "observer": None, "_estimate": None, "memo": None}

    def extra_repr(self) -> str:
        """The convolution, the order and the checks."""
        convolution = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{convolution}, order={self.options.order}, checks={len(self._checks)}"


class TerminatingPrefixConv2d(TerminatingConv2d, PrefixConv2d):  # type: ignore[override]
    """A `PrefixConv2d` that may stop early: both knobs on one layer.

    At a budget, the terms are those of the kept input channels, ordered by the weights with their profile in them; a
    check given as a share is that share of them, one given as a position moves in proportion.
    """

    plain = TerminatingConv2d

    def extracted(self) -> nn.Module:
        """The terminating layer of the size of the moment, with its checks where they are now."""
        if self.threshold_moves is not None or self._estimate is not None:
            return copy.copy(self).extracted()  # which is not in training
        layer = super().extracted()
        assert isinstance(layer, TerminatingConv2d)
        layer.input_mean = self._kept_inputs(self.input_mean).clone()
        layer.observer, layer._checks = None, ()
        layer.set_checks(self._checks_of_now(layer.terms))
        return layer

    def _checks_of_now(self, terms: int) -> list[Check]:
        """The checks of a layer with so many terms; at few of them, those of a filter may have come to one position."""
        thresholds = [
            self._kept(torch.tensor(check.thresholds(self.out_channels), dtype=torch.float64)).tolist()
            for check in self._checks
        ]
        if self.rounds:
            return [Check(bits=BITS, threshold=thresholds[0])]
        positions = [
            self._kept(torch.tensor(check.positions(self.terms, terms, self.out_channels))).tolist()
            for check in self._checks
        ]
        for (first, limits), (second, others) in combinations(zip(positions, thresholds, strict=True), 2):
            for f, position in enumerate(first):
                if position == second[f] < terms:
                    # A sum below either threshold stops there: one check says so, the other one moves to the end.
                    first[f], others[f] = terms, max(limits[f], others[f])
        pairs = zip(positions, thresholds, strict=True)
        return [Check(position=places, threshold=limits) for places, limits in pairs if min(places) < terms]

    def _kept(self, filters: Tensor) -> Tensor:
        return self.outputs.select(filters, 0)

    def _kept_inputs(self, channels: Tensor) -> Tensor:
        return self.inputs.select(channels, 0)


def terminating_layers(net: nn.Module) -> dict[str, TerminatingConv2d]:
    """The terminating layers of a network by path, in the order of its modules."""
    return {path: layer for path, layer in net.named_modules() if isinstance(layer, TerminatingConv2d)}


@contextmanager
def checks_set(net: nn.Module, checks: Mapping[str, Sequence[Check]]) -> Iterator[None]:
    """The network with these checks by path, and none in layers that are not named, inside the block."""
    layers = terminating_layers(net)
    before = {path: layer.checks for path, layer in layers.items()}
    try:
        for path, layer in layers.items():
            layer.set_checks(checks.get(path, ()))
        yield
    finally:
        for path, layer in layers.items():
            layer.set_checks(before[path])


def _terms(weight: Tensor, bias: Tensor | None) -> int:
    return weight[0].numel() + (bias is not None)


def _highest(scores: Tensor, counts: Tensor) -> Tensor:
    """Where the `counts[f]` highest scores of each filter are, the first ones of equal scores; bool, (filters, taps).

    The first taps of a stable sort, for a part of its time.
    """
    least = scores.topk(int(counts.max()), dim=1).values.gather(1, counts[:, None] - 1)
    higher, equal = scores > least, scores == least
    return higher | (equal & (equal.cumsum(1) <= counts[:, None] - higher.sum(1, keepdim=True)))


def _outcome(full: Tensor, stops: Tensor | None, emitted: Tensor, stages: Sequence[_Stage], terms: int) -> Outcome:
    if stops is None:
        stops = torch.full_like(full, -1, dtype=torch.int8)
    savings = [stage.saving.flatten().long() for stage in stages]
    by_check = torch.stack(savings) if savings else stops.new_zeros((0, full.shape[1]))
    return Outcome(full.detach(), stops, emitted.detach(), by_check, terms)


def _estimate(full: Tensor, soft: Sequence[Tensor], stages: Sequence[_Stage], terms: int) -> tuple[int, Tensor]:
    """MACs if nothing stops, and the expected share done if filters stopped with the probabilities of `_soft_stop`."""
    saved, running = torch.zeros((), device=full.device), None
    for stage, probability in zip(stages, soft, strict=True):
        stop = probability if running is None else running * probability
        saved = saved + (stop.sum((0, 2, 3)) * stage.saving.flatten()).sum()
        if stage is not stages[-1]:
            running = 1 - stop if running is None else running - stop
    return full.numel() * terms, 1 - saved / max(1, full.numel() * terms)


def _soft_stop(u: Tensor, threshold: Tensor, temperature: float) -> Tensor:
    """sigmoid((T - u_t) / s), the probability that a filter stops.

    s is the temperature times the partial sums' standard deviation, so that one temperature suits all layers.
    """
    width = temperature * _deviation(u.detach())
    probability: Tensor = _SoftStop.apply(u, threshold.to(u.dtype), width.to(u.dtype))  # type: ignore[no-untyped-call]
    return probability


class _SoftStop(torch.autograd.Function):
    """sigmoid((threshold - u) / width), in place, where autograd would keep each step.

    With a width of zero it is a step, which has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, width: Tensor) -> Tensor:
        least = torch.finfo(width.dtype).tiny
        probability = (threshold - u).div_(torch.where(width == 0, least, width)).sigmoid_()
        ctx.save_for_backward(probability, torch.where(width == 0, torch.inf, width))
        return probability

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        probability, width = ctx.saved_tensors
        of_u = torch.ops.aten.sigmoid_backward(grad, probability).div_(-width)
        if not ctx.needs_input_grad[1]:
            return of_u, None, None
        return of_u, -of_u.sum((0, 2, 3), dtype=torch.promote_types(of_u.dtype, torch.float32))[:, None, None], None


def _deviation(u: Tensor) -> Tensor:
    """The standard deviation, zero for fewer than two numbers, in single precision or better.

    `Tensor.std` takes four times as long.
    """
    sums, n = u.to(torch.promote_types(u.dtype, torch.float32)), u.numel()
    if n < 2:
        return sums.new_zeros(())
    square: Tensor = torch.linalg.vector_norm(sums) ** 2 - sums.sum() ** 2 / n
    return (square / (n - 1)).clamp(min=0).sqrt()


def _below(u: Tensor, threshold: Tensor) -> Tensor:
    """1 where u is below its threshold, 0 elsewhere, in the type of u.

    A comparison in place, as one that changes the type takes ten times as long on a CPU, and so does one of two types.
    """
    near = threshold.to(u.dtype)
    if near.dtype != threshold.dtype:  # the least number of the type that is no less: the same are below it
        near = torch.where(near < threshold, torch.nextafter(near, torch.full_like(near, torch.inf)), near)
    return u.clone().lt_(near)


def _until_negative(products_of: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Terms that one filter adds until its sum is negative, for inputs (batch, taps, places) in its order, int32.

    From the first negative weight on the sum never rises, so that the terms before it turns negative are counted by
    its signs alone.
    """
    taps, positive = len(weight), int((weight > 0).sum())
    terms = taps + (bias is not None)
    batch, places = products_of.shape[0], products_of.shape[2]
    if positive >= terms - 1:
        return torch.full((batch, places), terms, dtype=torch.int32, device=weight.device)
    base = torch.einsum("btl,t->bl", products_of[:, :positive], weight[:positive])
    if bias is not None:
        base = base + bias
    rest = slice(positive, terms - 2)
    sums = base[:, None] + (products_of[:, rest] * weight[rest, None]).cumsum(1)
    return (1 + positive + (base >= 0).int() + (sums >= 0).sum(1)).to(torch.int32)


class _Emit(torch.autograd.Function):
    """`lerp` with the gradient of the full sum everywhere: the ReLU after makes it zero where a filter stopped."""

    @staticmethod
    def forward(ctx: Any, full: Tensor, u: Tensor, weight: Tensor) -> Tensor:
        return torch.lerp(full, u, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def _emit(full: Tensor, u: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = _Emit.apply(full, u, weight)  # type: ignore[no-untyped-call]
    return out


class _Gated(torch.autograd.Function):
    """ReLU of what was emitted, with the gradient of ReLU(u) x gate, the gate being the probability of passing.

    Forward the gate is 0 or 1, backward it is that of `_soft_stop`, which has a gradient (as in Zhang et al. 2020,
    "Precision Gating"). Without it a filter that stops gets no gradient from the loss, so that whatever makes it stop,
    such as a penalty on MACs, is never answered.
    """

    @staticmethod
    def forward(ctx: Any, emitted: Tensor, full: Tensor, *soft: Tensor) -> Tensor:
        out = F.relu(emitted)
        ctx.save_for_backward(out, full, *soft)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, full, *soft = ctx.saved_tensors
        of_gate = F.relu(full).mul_(grad).neg_()
        of_soft = [
            reduce(torch.mul, (1 - other for j, other in enumerate(soft) if j != i), of_gate) for i in range(len(soft))
        ]
        return torch.ops.aten.threshold_backward(grad, out, 0), None, *of_soft


def _gated(emitted: Tensor, full: Tensor, soft: Sequence[Tensor]) -> Tensor:
    out: Tensor = _Gated.apply(emitted, full, *soft)  # type: ignore[no-untyped-call]
    return out


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, emitted: Tensor, full: Tensor) -> Tensor:
        return emitted.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def _straight_through(emitted: Tensor, full: Tensor) -> Tensor:
    """`emitted`, with the gradient of `full`."""
    out: Tensor = _StraightThrough.apply(emitted.detach(), full)  # type: ignore[no-untyped-call]
    return out
