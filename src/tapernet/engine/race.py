"""An engine and other runtimes on the same network and images, in turns.

A network whose layers stop early runs as it is in the engine, once more there without stopping, and in the other
runtimes without stopping, which is all they can do.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from tapernet.convert.extract import extract
from tapernet.convert.terminate import unterminated
from tapernet.data import ImageData
from tapernet.engine.compile import compile
from tapernet.engine.engine import Engine
from tapernet.engine.peers import PEERS, Call
from tapernet.engine.timings import COMPLETE, ENGINE, OWN, Race, Timing
from tapernet.errors import ConfigError
from tapernet.measure.accuracy import predicted
from tapernet.measure.latency import using_threads
from tapernet.measure.macs import total_macs
from tapernet.measure.termination import count_termination
from tapernet.nn.net import Budget, TaperedNet
from tapernet.nn.terminating import DENSE, terminating_layers
from tapernet.registry import unknown

COUNTED = 1000
"""Images on which the MACs of a network that stops early are counted."""


def race(
    net: nn.Module,
    images: Tensor,
    budgets: Sequence[Budget],
    runtimes: Sequence[str] | None = None,
    *,
    data: ImageData | None = None,
    calibration: Tensor | None = None,
    threads: int = 1,
    rounds: int = 15,
    seconds: float = 0.05,
    kernels: str = "auto",
    name: str = "network",
    machine: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Race:
    """Times an engine and other runtimes.

    Args:
        net: the network, with a dial or without one; the engine runs it with its dial, the others the sub-network of
            each budget.
        images: one batch, shape (n, channels, height, width), n > 0.
        budgets: where to measure; 1.0 is always measured, and it alone without a dial.
        runtimes: names from `PEERS`; all by default. One that cannot run is left out, with the reason.
        data: to measure accuracy on.
        calibration: images on which the engine times the layers that may stop early.
        threads: that each may use.
        rounds: turns.
        seconds: that the engine's turn takes, about; the others make as many calls.
        kernels: the engine's instruction set.
        name: of the network.
        machine: in words.
        say: gets a line at each budget.

    Raises:
        ConfigError: an unknown runtime or instruction set, no images, a budget of a network without a dial, or a result
            that differs from torch's.
    """
    for runtime in runtimes or ():
        if runtime not in PEERS:
            raise ConfigError(unknown("runtime", runtime, PEERS))
    if len(images) == 0:
        raise ConfigError("the batch has no images")
    budgets = [1.0, *(b for b in budgets if b != 1)]
    if len(budgets) > 1 and not isinstance(net, TaperedNet):
        raise ConfigError("a network without a dial has budget 1.0 alone: taper it first")
    images = images.clone()  # other images come to lie in its place where accuracy is measured
    engines = _engines(net, images, budgets, threads, calibration, kernels)
    counted = images if data is None else data.as_float()[:COUNTED]
    whole = _Subnetwork.of(net, 1.0, counted, engines[ENGINE].choices)
    missing: dict[str, str] = {}
    timings: list[Timing] = []
    with using_threads(threads):
        for budget in budgets:
            say(f"budget {budget}")
            sub = whole if budget == 1 else _Subnetwork.of(net, budget, counted, engines[ENGINE].choices)
            calls, errors = _calls(sub, engines, images, budget, runtimes or list(PEERS), threads, missing)
            taken = _take_turns(calls, rounds, seconds)
            found = {} if data is None else _accuracies(engines, calls, images, data, budget)
            timings += [
                _timing(runtime, sub, whole, budget, seconds, len(images), errors[runtime], found, timings)
                for runtime, seconds in taken.items()
            ]
    engine = engines[ENGINE]
    return Race(name, machine, len(images), threads, rounds, engine.kernels, tuple(timings), missing, engine.choices)


def _engines(
    net: nn.Module, images: Tensor, budgets: Iterable[Budget], threads: int, calibration: Tensor | None, kernels: str
) -> dict[str, Engine]:
    """The engine, and for a network that stops early one that does not."""
    usual = partial(compile, net, images, budgets=budgets, threads=threads)
    found = {ENGINE: usual(calibration=calibration, kernels=kernels)}
    dense = dict.fromkeys(found[ENGINE].choices, DENSE)
    if dense:
        found[COMPLETE] = usual(choices=dense, kernels=kernels)
    return found


@dataclass(frozen=True)
class _Subnetwork:
    """The network of one budget.

    Args:
        stopping: as the engine runs it: layers that are faster dense have no checks.
        complete: with plain convolutions in the place of those that stop early; the same module if none does.
        macs: of an image in `complete`, without biases.
        done: of an image in `stopping`, on average.
    """

    stopping: nn.Module
    complete: nn.Module
    macs: float
    done: float

    @staticmethod
    def of(net: nn.Module, budget: Budget, images: Tensor, choices: Mapping[str, str]) -> "_Subnetwork":
        stopping = (extract(net, budget) if isinstance(net, TaperedNet) else copy.deepcopy(net)).eval()
        complete = unterminated(stopping)
        layers = terminating_layers(stopping)
        for path, choice in choices.items():
            if choice == DENSE:
                layers[path].set_checks([])
        macs = float(total_macs(complete, images[0]).usual)
        if not any(layer.checks for layer in layers.values()):
            return _Subnetwork(complete, complete, macs, macs)
        report = count_termination(stopping, images)
        return _Subnetwork(stopping, complete, macs, macs * report.done / report.total)


def _calls(
    sub: _Subnetwork, engines: dict[str, Engine], images: Tensor, budget: Budget, runtimes: Sequence[str], threads: int,
    missing: dict[str, str],
) -> tuple[dict[str, Call], dict[str, float]]:  # fmt: skip
    """What to time, each with its largest difference from torch."""

    def call_of(engine: Engine) -> Call:
        return lambda: engine(images, budget=budget)

    calls: dict[str, Call] = {name: call_of(engine) for name, engine in engines.items()}
    for runtime in runtimes:
        if runtime in missing:
            continue
        try:
            calls[runtime] = PEERS[runtime].prepare(copy.deepcopy(sub.complete), images, threads)
            calls[runtime]()
        except Exception as error:  # whatever a foreign runtime raises
            calls.pop(runtime, None)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            missing[runtime] = lines[-1] if lines else type(error).__name__
    with torch.inference_mode():
        complete, stopping = sub.complete(images), sub.stopping(images)
    errors = {}
    for runtime, call in calls.items():
        stops = runtime == ENGINE and sub.stopping is not sub.complete
        expected, found = stopping if stops else complete, torch.as_tensor(call())
        errors[runtime] = float((found - expected).abs().max() / expected.abs().max())
        # A sum within rounding of its threshold may stop in one and not in the other.
        most = 0.1 if stops else 1e-3
        if (runtime in OWN or PEERS[runtime].exact) and not errors[runtime] < most:
            raise ConfigError(f"{runtime} gives another result than torch at budget {budget}")
    return calls, errors


def _take_turns(calls: dict[str, Call], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one call of each, for each round."""
    start = time.perf_counter()
    calls[ENGINE]()
    repeat = max(1, int(seconds / (time.perf_counter() - start)))
    taken: dict[str, list[float]] = {runtime: [] for runtime in calls}
    for turn in range(rounds + 1):
        for runtime, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            if turn:  # the first turn warms up
                taken[runtime].append((time.perf_counter() - start) / repeat)
    return taken


def _accuracies(
    engines: Mapping[str, Engine], calls: Mapping[str, Call], images: Tensor, data: ImageData, budget: Budget
) -> dict[str, float]:
    """Of the engines, and of the other runtimes that do not compute in float32."""
    answers = {name: partial(engine, budget=budget) for name, engine in engines.items()}
    found = {name: _accuracy(answer, data, 100) for name, answer in answers.items()}
    for runtime, call in calls.items():
        if runtime not in OWN and not PEERS[runtime].exact:
            found[runtime] = _accuracy(partial(_in_place, call, images), data, len(images))
    return found


def _in_place(call: Call, images: Tensor, batch: Tensor) -> Tensor:
    """What a runtime that reads `images` makes of a batch of as many or fewer, which is put in their place."""
    before = images.clone()
    images[: len(batch)] = batch
    found = torch.as_tensor(call())[: len(batch)].clone()
    images.copy_(before)
    return found


def _accuracy(answer: Callable[[Tensor], Tensor], data: ImageData, batch: int) -> float:
    pairs = zip(torch.split(data.as_float(), batch), torch.split(data.labels, batch), strict=True)
    return sum(int((predicted(answer(x)) == y).sum()) for x, y in pairs) / len(data)


def _timing(
    runtime: str, sub: _Subnetwork, whole: _Subnetwork, budget: Budget, seconds: Sequence[float], batch: int,
    error: float, accuracy: Mapping[str, float], before: Sequence[Timing],
) -> Timing:  # fmt: skip
    """Of one runtime at one budget; those of the full network came first."""
    median, low, high = (f(seconds) * 1e3 / batch for f in (statistics.median, min, max))
    full = {t.runtime: t.milliseconds for t in before if t.budget == 1}
    share = 1.0 if budget == 1 else median / full[runtime] if runtime in full else None
    exact = runtime in OWN or PEERS[runtime].exact
    macs = (sub.done if runtime == ENGINE else sub.macs) / whole.macs
    complete = accuracy.get(COMPLETE, accuracy.get(ENGINE)) if exact else None
    return Timing(runtime, budget, exact, median, low, high, macs, share, error, accuracy.get(runtime, complete))
