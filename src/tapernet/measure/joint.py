"""Both knobs of one network in one table: the budget, and checks that stop filters early."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tapernet.budget import shown
from tapernet.data import ImageData
from tapernet.measure.accuracy import accuracies
from tapernet.measure.curve import measured_budgets, save_points
from tapernet.measure.termination import TerminationReport, count_termination
from tapernet.nn.net import at
from tapernet.nn.terminating import checks_set


@dataclass(frozen=True)
class JointPoint:
    """A terminating network at one budget, with its checks and without them.

    Args:
        budget: share of channels kept, or the name of a budget that the network has.
        accuracy: with the checks, in [0, 1].
        unchecked_accuracy: without them.
        macs: of one image on average, the bias counted; with the checks.
        unchecked_macs: without them.
        saved: share of the whole network's MACs that budget and checks save together, in [0, 1].
    """

    budget: float | str
    accuracy: float
    unchecked_accuracy: float
    macs: float
    unchecked_macs: int
    saved: float


@dataclass(frozen=True)
class JointTable:
    """Points of one network, in increasing budget.

    Args:
        name: what the network is called.
        points: one for each budget.
    """

    name: str
    points: tuple[JointPoint, ...]

    def save(self, path: str | Path) -> None:
        """Writes .json or .csv, or a picture for any ending that matplotlib knows (.png, .svg, .pdf)."""
        from tapernet.measure.plot import plot_joint

        save_points(self, self.points, path, lambda: plot_joint(self))

    def table(self) -> Any:
        """The points as a rich table."""
        return joint_table([self])


def evaluate_joint(
    net: nn.Module,
    data: ImageData,
    budgets: Iterable[float | str] | None = None,
    *,
    name: str = "",
    batch_size: int = 100,
    counted: Mapping[float | str, TerminationReport] | None = None,
) -> JointTable:
    """Measures a terminating network at every budget, with its checks and without them.

    Args:
        net: a network from `tapernet.terminate`, with a dial or without one.
        data: usually the test set; reading it here chooses nothing.
        budgets: where, numbers or names; by default 10%, 20%, ..., 100%, or 1.0 alone for a network without a dial.
        name: of the table; by default the network's class.
        batch_size: images run at once.
        counted: what `count_termination` found on these images already, by budget; it is not counted again.

    Raises:
        ConfigError: a bad budget, or a network without terminating layers.
    """
    where = measured_budgets(net, budgets)
    images = data.as_float()
    with at(net, 1.0):
        whole = count_termination(net, images[:1]).total
    checked = accuracies(net, images, data.labels, where, batch_size)
    with checks_set(net, {}):
        unchecked = accuracies(net, images, data.labels, where, batch_size)
    points = []
    for budget, accuracy, plain in zip(where, checked, unchecked, strict=True):
        report = (counted or {}).get(budget)
        if report is None:
            with at(net, budget):
                report = count_termination(net, images, batch_size)
        points.append(JointPoint(budget, accuracy, plain, report.done, report.total, 1 - report.done / whole))
    return JointTable(name or type(net).__name__, tuple(points))


def joint_table(tables: Sequence[JointTable], title: str | None = None) -> Any:
    """Points of several networks, or of one in several states, as one rich table."""
    from rich.table import Table

    table = Table(title=title, caption="MACs of an image with bias; saved: of the whole network's, by both knobs")
    for heading in ("", "budget", "accuracy", "without checks", "MACs", "without checks", "saved"):
        table.add_column(heading, justify="right" if heading else "left")
    for one in tables:
        for p in one.points:
            table.add_row(one.name, shown(p.budget), f"{p.accuracy:.2%}", f"{p.unchecked_accuracy:.2%}",
                          f"{p.macs:,.0f}", f"{p.unchecked_macs:,}", f"{p.saved:.1%}")  # fmt: skip
        table.add_section()
    return table
