"""What a cascade does on a data set: accuracy, MACs and times, its largest budget alone beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tapernet.measure.latency import Latency, in_turns
from tapernet.nn.net import Budget, budget_name

SINGLES, BATCH, BATCHES = 100, 64, 4


@dataclass(frozen=True)
class CascadeLatency:
    """Measured milliseconds of an image, on average over the images that were run, on one thread.

    Args:
        single: one image at a time.
        full_single: the same by the largest budget alone.
        batched: in batches.
        full_batched: the same by the largest budget alone.
        batch: images in a batch.
    """

    single: Latency
    full_single: Latency
    batched: Latency
    full_batched: Latency
    batch: int


@dataclass(frozen=True)
class CascadeReport:
    """What a cascade did on a data set.

    Args:
        budgets: of its stages.
        thresholds: between them.
        confidence: what they are thresholds of.
        stage_macs: MACs of one image at each stage.
        shares: of the images that each stage answered.
        accuracy: share of images classified rightly.
        macs: of an image on average; one that climbed has done the MACs of every stage that it ran.
        full_accuracy: of the largest budget alone.
        latency: times of both; None if they were not measured.
    """

    budgets: tuple[Budget, ...]
    thresholds: tuple[float, ...]
    confidence: str
    stage_macs: tuple[int, ...]
    shares: tuple[float, ...]
    accuracy: float
    macs: float
    full_accuracy: float
    latency: CascadeLatency | None = None

    @property
    def full_macs(self) -> int:
        """MACs of the largest budget alone."""
        return self.stage_macs[-1]

    def table(self, title: str = "cascade") -> Any:
        """The stages as a rich table."""
        from rich.table import Table

        table = Table(title=f"{title}, by {self.confidence}")
        for heading in ("budget", "answers from", "MACs", "answered"):
            table.add_column(heading, justify="right")
        limits = [*(f"{t:.4f}" for t in self.thresholds), "0, all that is left"]
        for budget, limit, macs, share in zip(self.budgets, limits, self.stage_macs, self.shares, strict=True):
            table.add_row(budget_name(budget), limit, f"{macs:,}", f"{share:.1%}")
        return table

    def summary(self) -> str:
        """Accuracy, MACs and times beside those of the largest budget alone, a line each."""
        alone = f"{budget_name(self.budgets[-1])} alone"
        lines = [
            f"accuracy {self.accuracy:.2%}, {alone} {self.full_accuracy:.2%}",
            f"MACs {self.macs:,.0f} an image, {alone} {self.full_macs:,}: {self.macs / self.full_macs:.1%}",
        ]
        if self.latency is not None:
            times = self.latency
            lines += [
                f"one by one {times.single}, {alone} {times.full_single}",
                f"in batches of {times.batch} {times.batched}, {alone} {times.full_batched}, each for an image",
            ]
        return "\n".join(lines)


def time_cascade(
    cascade: Callable[[Tensor], Tensor], full: Callable[[Tensor], Tensor], images: Tensor, *, rounds: int = 7
) -> CascadeLatency:
    """Times both on the first images, in turns.

    Args:
        cascade: from images to scores.
        full: the same by the largest budget alone.
        images: of which at most `SINGLES` are run one by one, and at most `BATCHES` batches of `BATCH`.
        rounds: turns that each gets.
    """
    ones = torch.split(images[:SINGLES], 1)
    batches = torch.split(images[: BATCH * BATCHES], BATCH)

    def over(run: Callable[[Tensor], Tensor], parts: tuple[Tensor, ...]) -> Callable[[], None]:
        def action() -> None:
            for part in parts:
                run(part)

        return action

    actions = [over(run, parts) for parts in (ones, batches) for run in (cascade, full)]
    each = [len(ones)] * 2 + [sum(len(part) for part in batches)] * 2
    single, full_single, batched, full_batched = in_turns(actions, rounds, each)
    return CascadeLatency(single, full_single, batched, full_batched, min(BATCH, len(images)))
