"""An engine and other runtimes on the same network and images, in turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tapernet.convert.extract import extract
from tapernet.engine.compile import compile
from tapernet.engine.peers import PEERS, Call
from tapernet.errors import ConfigError
from tapernet.measure.latency import using_threads
from tapernet.measure.macs import total_macs
from tapernet.nn.net import Budget, TaperedNet
from tapernet.registry import unknown

ENGINE = "engine"
ALONE = (
    "no speed-up is given: over eager PyTorch alone it says little, since that is several times slower than a runtime "
    "that compiles; measure ONNX Runtime or OpenVINO, too (extras export, openvino)"
)


@dataclass(frozen=True)
class Timing:
    """One runtime at one budget.

    Args:
        runtime: its name.
        budget: of the network; the other runtimes run the sub-network extracted at it.
        exact: whether it computes in float32.
        milliseconds: of one image, the median of the rounds.
        fastest: of the rounds.
        slowest: of the rounds.
        macs: share of the full network's MACs.
        time: share of the same runtime's time for the full network, None if that was not measured.
        error: largest difference from torch, as a share of the largest output.
    """

    runtime: str
    budget: Budget
    exact: bool
    milliseconds: float
    fastest: float
    slowest: float
    macs: float
    time: float | None
    error: float


@dataclass(frozen=True)
class Race:
    """What was measured, and how.

    Args:
        network: its name.
        machine: in words.
        batch: images in a call.
        threads: that every runtime may use.
        rounds: turns of each runtime, after one to warm up.
        kernels: instruction set of the engine.
        timings: by budget, the engine first.
        missing: runtimes that could not be measured, with the reason.
    """

    network: str
    machine: str
    batch: int
    threads: int
    rounds: int
    kernels: str
    timings: tuple[Timing, ...]
    missing: dict[str, str]

    def at(self, budget: Budget) -> list[Timing]:
        """The timings of one budget."""
        return [t for t in self.timings if t.budget == budget]

    def speed_up(self, budget: Budget) -> tuple[str, float] | None:
        """The fastest other float32 runtime, and how many times its time the engine's is; None without a fair one."""
        others = [t for t in self.at(budget) if t.runtime != ENGINE and t.exact]
        if all(PEERS[t.runtime].eager for t in others):
            return None
        best = min(others, key=lambda t: t.milliseconds)
        (own,) = [t for t in self.at(budget) if t.runtime == ENGINE]
        return best.runtime, best.milliseconds / own.milliseconds

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        budgets = list(dict.fromkeys(str(t.budget) for t in self.timings))
        speed_ups = [self.speed_up(t.budget) for t in self.timings if t.runtime == ENGINE]
        return {**asdict(self), "speed_up": dict(zip(budgets, speed_ups, strict=True))}

    def table(self) -> Any:
        """The timings as a rich table."""
        from rich.table import Table

        notes = [f"{name}: {reason}" for name, reason in self.missing.items()]
        if any(self.speed_up(t.budget) is None for t in self.timings):
            notes.append(ALONE)
        title = f"{self.network}, batch {self.batch}, threads {self.threads}, {self.rounds} rounds in turns"
        table = Table(title=title, caption="\n".join([f"{self.machine}, kernels: {self.kernels}", *notes]))
        for heading in ("budget", "runtime", "ms/image", "least", "most", "MACs", "time", "engine's speed-up"):
            table.add_column(heading, justify="left" if heading == "runtime" else "right")
        for t in self.timings:
            found = self.speed_up(t.budget)
            shown = f"{found[1]:.2f}" if found is not None and t.runtime == found[0] else ""
            share = "" if t.time is None else f"{t.time:.0%}"
            table.add_row(str(t.budget), t.runtime, *(f"{v:.4f}" for v in (t.milliseconds, t.fastest, t.slowest)),
                          f"{t.macs:.0%}", share, shown)  # fmt: skip
        return table

    def plot(self) -> Any:
        """Time over MACs, a line for each runtime; returns the figure."""
        from tapernet.measure.plot import new_axes

        ax = new_axes()
        for runtime in dict.fromkeys(t.runtime for t in self.timings):
            own = sorted((t for t in self.timings if t.runtime == runtime), key=lambda t: t.macs)
            ax.plot([t.macs * 100 for t in own], [t.milliseconds for t in own], "o-", label=runtime)
        ax.set(title=f"{self.network}, batch {self.batch}, threads {self.threads}")
        ax.set(xlabel="MACs (% of the full network)", ylabel="milliseconds per image", xlim=(0, None), ylim=(0, None))
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
        return ax.figure


def race(
    net: TaperedNet,
    images: Tensor,
    budgets: Sequence[Budget],
    runtimes: Sequence[str] | None = None,
    *,
    threads: int = 1,
    rounds: int = 15,
    seconds: float = 0.05,
    name: str = "network",
    machine: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Race:
    """Times an engine and other runtimes.

    Args:
        net: the network; the engine runs it with its dial, the others the sub-network of each budget.
        images: one batch, shape (n, channels, height, width), n > 0.
        budgets: where to measure; 1.0 is always measured.
        runtimes: names from `PEERS`; all by default. One that cannot run is left out, with the reason.
        threads: that each may use.
        rounds: turns.
        seconds: that the engine's turn takes, about; the others make as many calls.
        name: of the network.
        machine: in words.
        say: gets a line at each budget.

    Raises:
        ConfigError: an unknown runtime, no images, or a result that differs from torch's.
    """
    for runtime in runtimes or ():
        if runtime not in PEERS:
            raise ConfigError(unknown("runtime", runtime, PEERS))
    if len(images) == 0:
        raise ConfigError("the batch has no images")
    budgets = [1.0, *(b for b in budgets if b != 1)]
    engine = compile(net, budgets=budgets, threads=threads)
    missing: dict[str, str] = {}
    timings: list[Timing] = []
    with using_threads(threads):
        for budget in budgets:
            say(f"budget {budget}")
            calls, error = _calls(net, engine, images, budget, runtimes or list(PEERS), threads, missing)
            taken = _take_turns(calls, rounds, seconds)
            timings += _timings(net, images, budget, taken, error, timings)
    return Race(name, machine, len(images), threads, rounds, engine.kernels, tuple(timings), missing)


def _calls(
    net: TaperedNet, engine: Any, images: Tensor, budget: Budget, runtimes: Sequence[str], threads: int,
    missing: dict[str, str],
) -> tuple[dict[str, Call], dict[str, float]]:  # fmt: skip
    """What to time, each with its largest difference from torch."""
    with torch.inference_mode():
        expected = extract(net, budget).eval()(images)
    calls: dict[str, Call] = {ENGINE: lambda: engine(images, budget=budget)}
    for runtime in runtimes:
        if runtime in missing:
            continue
        try:
            calls[runtime] = PEERS[runtime].prepare(extract(net, budget).eval(), images, threads)
            calls[runtime]()
        except Exception as error:  # whatever a foreign runtime raises
            calls.pop(runtime, None)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            missing[runtime] = lines[-1] if lines else type(error).__name__
    errors = {}
    for runtime, call in calls.items():
        found = torch.as_tensor(call())
        errors[runtime] = float((found - expected).abs().max() / expected.abs().max())
        if (runtime == ENGINE or PEERS[runtime].exact) and not errors[runtime] < 1e-3:
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


def _timings(
    net: TaperedNet, images: Tensor, budget: Budget, taken: dict[str, list[float]], errors: dict[str, float],
    before: Sequence[Timing],
) -> list[Timing]:  # fmt: skip
    """The timings of one budget; those of the full network came first."""
    macs = [total_macs(extract(net, b), images[0]).usual for b in (budget, 1.0)]
    full = {t.runtime: t.milliseconds for t in before if t.budget == 1}
    result = []
    for runtime, seconds in taken.items():
        median, low, high = (f(seconds) * 1e3 / len(images) for f in (statistics.median, min, max))
        share = 1.0 if budget == 1 else median / full[runtime] if runtime in full else None
        exact = runtime == ENGINE or PEERS[runtime].exact
        result.append(Timing(runtime, budget, exact, median, low, high, macs[0] / macs[1], share, errors[runtime]))
    return result
