"""Accuracy against MACs, as Figures 2 and 3 of the early-termination paper."""

import statistics
from collections.abc import Iterator
from typing import Any

from tapernet.views.spread import spread

MILLION = 1e6


def draw(ax: Any, curve: dict[str, Any]) -> None:
    """Means over the seeds, joined in the order of MACs; each seed faintly; the paper's points as crosses."""
    groups = sorted(by_point(curve), key=lambda group: mean(group, "macs"))
    at = [mean(group, "macs") / MILLION for group in groups]
    (line,) = ax.plot(at, [mean(group, "accuracy") * 100 for group in groups], "o-", ms=4, label=curve["name"])
    color = line.get_color()
    for group in groups:
        ax.plot([p["macs"] / MILLION for p in group], [p["accuracy"] * 100 for p in group], ".", color=color, alpha=0.3)
    for macs, accuracy in curve["paper"] or ():
        ax.plot(macs / MILLION, accuracy * 100, "x", color=color, label=f"{curve['name']} (paper)")
    ax.set(xlabel="million multiply-accumulates per image", ylabel="test accuracy (%)")


def table(curves: list[dict[str, Any]]) -> Any:
    """A row for each point of each curve, means over its seeds (standard deviation); the paper's below ours."""
    from rich.table import Table

    table = Table(caption="saved: of the untouched network's MACs; before: without fine-tuning; on test images")
    for heading in ("curve", "point", "seeds", "million MACs", "saved", "accuracy", "before", "validation", "minutes"):
        table.add_column(heading, justify="left" if heading == "curve" else "right")
    whole = max((p["macs"] / (1 - p["saved"]) for curve in curves for p in curve["points"]), default=1.0)
    for curve in curves:
        for group in by_point(curve):
            macs = mean(group, "macs")
            held_out = [p["validation"] for p in group if p["validation"] is not None]
            table.add_row(
                curve["name"], f"{group[0]['point']:g}", str(len(group)), f"{macs / MILLION:.3f}",
                f"{1 - macs / whole:.2%}", spread([p["accuracy"] for p in group]),
                f"{statistics.fmean(p['before']['accuracy'] for p in group):.2%}",
                f"{statistics.fmean(held_out):.2%}" if held_out else "", f"{mean(group, 'minutes'):.1f}",
            )  # fmt: skip
        for macs, accuracy in curve["paper"] or ():
            table.add_row(f"{curve['name']} (paper)", "", "", f"{macs / MILLION:.3f}", f"{1 - macs / whole:.2%}",
                          f"{accuracy:.2%}")  # fmt: skip
        table.add_section()
    return table


def by_point(curve: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The measurements of each point, one for each seed, in increasing order of the points."""
    for value in sorted({p["point"] for p in curve["points"]}):
        yield [p for p in curve["points"] if p["point"] == value]


def mean(group: list[dict[str, Any]], key: str) -> float:
    """Mean over the seeds."""
    return statistics.fmean(p[key] for p in group)
