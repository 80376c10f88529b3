"""What a race of an engine against other runtimes found."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tapernet.engine.peers import PEERS
from tapernet.nn.net import Budget
from tapernet.nn.terminating import TERMINATING

ENGINE = "engine"
COMPLETE = "engine, no checks"
OWN = (ENGINE, COMPLETE)
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
        accuracy: of what is timed, in [0, 1], None if that was not measured.
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
    accuracy: float | None = None


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
        choices: of the engine, for the layers that may stop early: "dense" or "terminating".
    """

    network: str
    machine: str
    batch: int
    threads: int
    rounds: int
    kernels: str
    timings: tuple[Timing, ...]
    missing: dict[str, str]
    choices: dict[str, str] = field(default_factory=dict)

    def at(self, budget: Budget) -> list[Timing]:
        """The timings of one budget."""
        return [t for t in self.timings if t.budget == budget]

    def speed_up(self, budget: Budget, of: str = ENGINE) -> tuple[str, float] | None:
        """The fastest other float32 runtime, and how many times the engine's time it takes; None without a fair one.

        Args:
            budget: one of those measured.
            of: which engine: a name from `OWN`.
        """
        others = [t for t in self.at(budget) if t.runtime not in OWN and t.exact]
        if all(PEERS[t.runtime].eager for t in others):
            return None
        best = min(others, key=lambda t: t.milliseconds)
        (own,) = [t for t in self.at(budget) if t.runtime == of]
        return best.runtime, best.milliseconds / own.milliseconds

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        budgets = {str(t.budget): t for t in self.timings}
        own = [name for name in OWN if any(t.runtime == name for t in self.timings)]
        speed_ups = {o: {b: self.speed_up(t.budget, o) for b, t in budgets.items()} for o in own}
        return {**asdict(self), "speed_up": speed_ups[ENGINE], "speed_ups": speed_ups}

    def table(self) -> Any:
        """The timings as a rich table."""
        from rich.table import Table

        notes = [f"{name}: {reason}" for name, reason in self.missing.items()]
        if any(self.speed_up(t.budget) is None for t in self.timings):
            notes.append(ALONE)
        if self.choices:
            stops = [path for path, choice in self.choices.items() if choice == TERMINATING]
            notes.append(f"the engine stops early in {', '.join(stops) or 'no layer'}; all others run the same weights "
                         f"without checks, though these may have been trained with them")  # fmt: skip
        if self.measured:
            notes.append("accuracy: of what is timed, on the test images; MACs: of an image on average")
        title = f"{self.network}, batch {self.batch}, threads {self.threads}, {self.rounds} rounds in turns"
        table = Table(title=title, caption="\n".join([f"{self.machine}, kernels: {self.kernels}", *notes]))
        headings = ["budget", "runtime", "ms/image", "least", "most", "MACs", "time", "engine's speed-up"]
        for heading in [*headings, "accuracy"] if self.measured else headings:
            table.add_column(heading, justify="left" if heading == "runtime" else "right")
        for t in self.timings:
            found = self.speed_up(t.budget)
            shown = f"{found[1]:.2f}" if found is not None and t.runtime == found[0] else ""
            share = "" if t.time is None else f"{t.time:.0%}"
            accuracy = [] if not self.measured else ["" if t.accuracy is None else f"{t.accuracy:.2%}"]
            table.add_row(str(t.budget), t.runtime, *(f"{v:.4f}" for v in (t.milliseconds, t.fastest, t.slowest)),
                          f"{t.macs:.0%}", share, shown, *accuracy)  # fmt: skip
        return table

    @property
    def measured(self) -> bool:
        """Whether accuracies were measured."""
        return any(t.accuracy is not None for t in self.timings)

    def plot(self) -> Any:
        """Accuracy over time if it was measured, else time over MACs; a line for each runtime. Returns the figure."""
        from tapernet.measure.plot import new_axes

        ax = new_axes()
        for runtime in dict.fromkeys(t.runtime for t in self.timings):
            own = sorted((t for t in self.timings if t.runtime == runtime), key=lambda t: t.macs)
            if not self.measured:
                ax.plot([t.macs * 100 for t in own], [t.milliseconds for t in own], "o-", label=runtime)
            elif own[0].accuracy is not None:
                ax.plot([t.milliseconds for t in own], [(t.accuracy or 0) * 100 for t in own], "o-", label=runtime)
        time, macs = "milliseconds per image", "MACs (% of the full network)"
        ax.set(title=f"{self.network}, batch {self.batch}, threads {self.threads}", xlim=(0, None))
        if self.measured:
            ax.set(xlabel=time, ylabel="accuracy (%)")
        else:
            ax.set(xlabel=macs, ylabel=time, ylim=(0, None))
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
        return ax.figure
