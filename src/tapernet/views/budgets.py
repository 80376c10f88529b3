"""Accuracy over the budget, as the TESLA paper draws it."""

import statistics
from typing import Any

from tapernet.views.spread import spread


def draw(ax: Any, curve: dict[str, Any]) -> None:
    """Mean over the seeds, and a band from the worst seed to the best."""
    percent = [b * 100 for b in curve["budgets"]]
    columns = [[a * 100 for a in column] for column in zip(*curve["accuracy"], strict=True)]
    (line,) = ax.plot(percent, [statistics.fmean(c) for c in columns], "o-", ms=3, label=curve["name"])
    ax.fill_between(percent, [min(c) for c in columns], [max(c) for c in columns], color=line.get_color(), alpha=0.15)
    if curve["paper"]:
        known = [(x, y * 100) for x, y in zip(percent, curve["paper"], strict=True) if y is not None]
        ax.plot(*zip(*known, strict=True), "x", color=line.get_color(), label=f"{curve['name']} (paper)")
    ax.set(xlabel="incomplete dot product (%)", ylabel="test accuracy (%)")


def table(curves: list[dict[str, Any]]) -> Any:
    """Each curve's mean over budgets and seeds, its spread, single points, and the paper's mean."""
    from rich.table import Table

    table = Table(title="test accuracy, mean over seeds (standard deviation)", pad_edge=False)
    # The names stay whole where the terminal is narrow; numbers may be broken between mean and deviation.
    longest = max((len(word) for curve in curves for word in curve["name"].split()), default=0)
    table.add_column("curve", min_width=longest)
    for heading in ("seeds", "average", "10%", "20%", "50%", "100%", "paper's average", "minutes a seed"):
        table.add_column(heading, justify="right")
    for curve in curves:
        means = [statistics.fmean(a) for a in curve["accuracy"]]
        at = {b: [a[i] for a in curve["accuracy"]] for i, b in enumerate(curve["budgets"])}
        points = [spread(at[b]) if b in at else "" for b in (0.1, 0.2, 0.5, 1.0)]
        paper = "" if curve["paper_mean"] is None else f"{curve['paper_mean']:.1%}"
        table.add_row(curve["name"], str(len(means)), spread(means), *points, paper,
                      f"{statistics.fmean(curve['minutes']):.1f}")  # fmt: skip
    return table
