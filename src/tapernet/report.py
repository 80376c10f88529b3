"""Figures and tables from result files, the paper's numbers beside ours."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapernet.config import read_yaml
from tapernet.errors import ConfigError
from tapernet.files import read_json
from tapernet.measure.plot import new_axes, save_figure
from tapernet.registry import unknown


@dataclass(frozen=True)
class PanelConfig:
    """One panel of a figure.

    Args:
        title: above it.
        curves: names of curves, each "<figure>: <name>" with the figure's result file.
        learned: draw the learned profiles in place of the accuracy.
    """

    title: str
    curves: list[str]
    learned: bool = False


@dataclass(frozen=True)
class FigureConfig:
    """Panels side by side."""

    panels: list[PanelConfig]


@dataclass(frozen=True)
class Panel:
    """A panel with the curves that it shows, as the result files hold them."""

    title: str
    curves: list[dict[str, Any]]
    learned: bool


def read_figure(path: Path, results: Path) -> list[Panel]:
    """Reads a figure's YAML file and the result files that it names.

    Args:
        path: experiments/<paper>/<figure>.yaml.
        results: folder of the result files; those of the same paper are read.

    Raises:
        FileError: a file is missing.
        ConfigError: an unknown key, or a curve that its result file lacks.
    """
    panels = read_yaml(FigureConfig, path).panels
    folder = results / path.parent.name
    return [Panel(p.title, [_find(folder, name) for name in p.curves], p.learned) for p in panels]


def draw_figure(panels: list[Panel], path: Path) -> None:
    """Writes the panels side by side: mean over the seeds, and a band from the worst seed to the best."""
    axes = new_axes(len(panels))
    for panel, ax in zip(panels, axes if len(panels) > 1 else [axes], strict=True):
        for curve in panel.curves:
            (_draw_profile if panel.learned else _draw_accuracy)(ax, curve)
        ax.set_title(panel.title)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="lower right" if not panel.learned else "upper right")
    save_figure(axes[0].figure if len(panels) > 1 else axes.figure, path)


def summary(panels: list[Panel]) -> Any:
    """A rich table: each curve's mean over budgets and seeds, its spread, single points, and the paper's mean."""
    from rich.table import Table

    table = Table(title="test accuracy, mean over seeds (standard deviation)")
    for heading in ("curve", "seeds", "average", "10%", "20%", "50%", "100%", "paper's average", "minutes a seed"):
        table.add_column(heading, justify="left" if heading == "curve" else "right")
    for curve in {c["name"]: c for panel in panels for c in panel.curves}.values():
        means = [statistics.fmean(a) for a in curve["accuracy"]]
        at = {b: [a[i] for a in curve["accuracy"]] for i, b in enumerate(curve["budgets"])}
        points = [_spread(at[b]) if b in at else "" for b in (0.1, 0.2, 0.5, 1.0)]
        paper = "" if curve["paper_mean"] is None else f"{curve['paper_mean']:.1%}"
        table.add_row(curve["name"], str(len(means)), _spread(means), *points, paper,
                      f"{statistics.fmean(curve['minutes']):.1f}")
    return table


def _find(folder: Path, name: str) -> dict[str, Any]:
    figure, _, curve = name.partition(": ")
    curves = {c["name"]: c for c in read_json(folder / f"{figure}.json")["curves"]}
    if curve not in curves:
        raise ConfigError(unknown(f"curve in {figure}", curve, curves))
    found: dict[str, Any] = curves[curve]
    return found


def _draw_accuracy(ax: Any, curve: dict[str, Any]) -> None:
    percent = [b * 100 for b in curve["budgets"]]
    columns = [[a * 100 for a in column] for column in zip(*curve["accuracy"], strict=True)]
    (line,) = ax.plot(percent, [statistics.fmean(c) for c in columns], "o-", ms=3, label=curve["name"])
    ax.fill_between(percent, [min(c) for c in columns], [max(c) for c in columns], color=line.get_color(), alpha=0.15)
    if curve["paper"]:
        known = [(x, y * 100) for x, y in zip(percent, curve["paper"], strict=True) if y is not None]
        ax.plot(*zip(*known, strict=True), "x", color=line.get_color(), label=f"{curve['name']} (paper)")
    ax.set(xlabel="incomplete dot product (%)", ylabel="test accuracy (%)")


def _draw_profile(ax: Any, curve: dict[str, Any]) -> None:
    for i, profile in enumerate(curve["learned_profile"]):
        ax.plot(range(1, len(profile) + 1), profile, lw=1, label=f"{curve['name']}, seed {curve['seeds'][i]}")
    ax.set(xlabel="channel", ylabel="learned coefficient")


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.2%} ({deviation * 100:.2f})"
