"""The accuracy-compute curve: a network measured at every budget."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from tapernet.budget import TEN_BUDGETS, check_budgets, shown
from tapernet.checks import check_images, check_scores
from tapernet.data import ImageData
from tapernet.errors import ConfigError
from tapernet.files import read_json, reading, write_json, write_text
from tapernet.measure.accuracy import accuracies
from tapernet.measure.latency import latencies
from tapernet.measure.macs import count_parameters, total_macs
from tapernet.nn.net import TaperedNet, at

POINTS = (".json", ".csv")
"""Endings of files that hold points as numbers."""


@dataclass(frozen=True)
class Point:
    """A network at one budget.

    Args:
        budget: share of channels kept, or the name of a budget that the network has.
        accuracy: share of images classified rightly.
        macs: of one image, products with a weight.
        paper_macs: of one image, the bias counted as the papers do.
        parameters: numbers that the sub-network needs.
        milliseconds: median time of one image through torch, None if it was not measured.
    """

    budget: float | str
    accuracy: float
    macs: int
    paper_macs: int
    parameters: int
    milliseconds: float | None = None


@dataclass(frozen=True)
class Curve:
    """Points of one network, in increasing budget, those with a name after the others.

    Args:
        name: what the curve is called in tables and legends.
        points: one for each budget.
    """

    name: str
    points: tuple[Point, ...]

    @property
    def mean_accuracy(self) -> float:
        """Accuracy averaged over the budgets without a name, as the TESLA paper sums a curve up; else over all."""
        points = [p for p in self.points if not isinstance(p.budget, str)] or self.points
        return sum(p.accuracy for p in points) / len(points)

    def save(self, path: str | Path) -> None:
        """Writes .json or .csv, or a picture for any ending that matplotlib knows (.png, .svg, .pdf)."""
        save_points(self, self.points, path, self.plot)

    @staticmethod
    def load(path: str | Path) -> "Curve":
        """Reads what `save` wrote as .json; raises FileError if it is something else."""
        value = read_json(path)
        with reading(path, "curve"):
            return Curve(value["name"], tuple(Point(**p) for p in value["points"]))

    def plot(self, ax: Any = None) -> Any:
        """Draws accuracy against MACs on a matplotlib axes (a new one by default), and returns its figure."""
        from tapernet.measure.plot import plot_curves

        return plot_curves([self], ax)

    def table(self) -> Any:
        """The points as a rich table."""
        from rich.table import Table

        table = Table(title=self.name, caption=f"mean accuracy {self.mean_accuracy:.2%}")
        for heading in ("budget", "accuracy", "MACs", "with bias", "parameters", "ms/image"):
            table.add_column(heading, justify="right")
        for p in self.points:
            ms = "" if p.milliseconds is None else f"{p.milliseconds:.3f}"
            table.add_row(
                shown(p.budget), f"{p.accuracy:.2%}", f"{p.macs:,}", f"{p.paper_macs:,}", f"{p.parameters:,}", ms
            )
        return table


def save_points(whole: Any, points: Sequence[Any], path: str | Path, plot: Callable[[], Any]) -> None:
    """Writes a dataclass of points as .json, its points as .csv, or its plot for any other ending."""
    path = Path(path)
    if path.suffix == ".json":
        write_json(path, asdict(whole))
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(points[0])])
        writer.writeheader()
        writer.writerows(asdict(p) for p in points)
        write_text(path, text.getvalue())
    else:
        from tapernet.measure.plot import save_figure

        save_figure(plot(), path)


def measured_budgets(net: nn.Module, budgets: Iterable[float | str] | None) -> list[float | str]:
    """Where a network is measured, in increasing order: by default 10%, 20%, ..., 100%, or 1.0 without a dial.

    Named budgets come last, in the order in which they are given.

    Raises:
        ConfigError: a bad budget, or another than 1.0 for a network without a dial.
    """
    dial = isinstance(net, TaperedNet)
    if isinstance(budgets, str) or not (budgets is None or isinstance(budgets, Iterable)):
        raise ConfigError(f"budgets are several numbers or names, as in [1.0, 0.5], not {budgets!r}")
    wanted = list((TEN_BUDGETS if dial else (1.0,)) if budgets is None else budgets)
    names = list(dict.fromkeys(b for b in wanted if isinstance(b, str)))
    numbers = [b for b in wanted if not isinstance(b, str)]
    found: list[float | str] = [*sorted(check_budgets(numbers) if numbers or not names else ()), *names]
    if not dial and found != [1.0]:
        raise ConfigError(f"{type(net).__name__} has no dial: it runs at budget 1.0 alone")
    return found


def evaluate(
    net: nn.Module,
    data: ImageData,
    budgets: Iterable[float | str] | None = None,
    *,
    name: str = "",
    latency: bool = True,
    batch_size: int = 1000,
) -> Curve:
    """Measures a network at every budget.

    Args:
        net: a `TaperedNet`, or any module for budget 1.0.
        data: usually the test set; reading it here chooses nothing.
        budgets: where, numbers or names; by default 10%, 20%, ..., 100%, or 1.0 alone for a network without a dial.
        name: of the curve; by default the network's class.
        latency: also measure the time of one image on one thread, through torch.
        batch_size: images run at once for the accuracy.

    Raises:
        DataError: no ImageData; images of another shape than the network's; fewer outputs than classes; scores that are
            not numbers.
        ConfigError: a bad budget; no network, or one that does not run on the images.
    """
    where = measured_budgets(net, budgets)
    check_images("data", data)
    images = data.as_float()
    check_scores(net, images, data.classes, spare=True)
    found = accuracies(net, images, data.labels, where, batch_size)
    times = latencies(net, images[:1], where) if latency else [None] * len(where)
    points = []
    for budget, accuracy, ms in zip(where, found, times, strict=True):
        with at(net, budget):
            macs = total_macs(net, images[0])
            points.append(Point(budget, accuracy, macs.usual, macs.paper, count_parameters(net), ms))
    return Curve(name or type(net).__name__, tuple(points))
