"""Figures and tables from result files, the paper's numbers beside ours.

A view is how curves are drawn and tabulated: one file in `tapernet.views` and one line in `VIEWS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapernet.config import read_yaml
from tapernet.errors import ConfigError
from tapernet.files import read_json
from tapernet.measure.plot import new_axes, save_figure
from tapernet.registry import unknown
from tapernet.views import budgets, iterations, macs, profiles


@dataclass(frozen=True)
class PanelConfig:
    """One panel of a figure.

    Args:
        title: above it.
        curves: names of curves, each "<figure>: <name>" with the figure's result file.
        learned: draw the learned profiles in place of the accuracy.
        layer: draw what this layer's check saves, and how often rightly, over its position, in place of the accuracy.
    """

    title: str
    curves: list[str]
    learned: bool = False
    layer: str | None = None


@dataclass(frozen=True)
class FigureConfig:
    """Panels side by side."""

    panels: list[PanelConfig]


Curve = dict[str, Any]


@dataclass(frozen=True)
class View:
    """How curves of one kind are shown.

    Args:
        draw: one curve on matplotlib axes.
        table: several curves as a rich table; None if the picture says it all.
    """

    draw: Callable[[Any, Curve], None]
    table: Callable[[list[Curve]], Any] | None


VIEWS = {
    "budgets": View(budgets.draw, budgets.table),
    "profiles": View(profiles.draw, None),
    "macs": View(macs.draw, macs.table),
    "iterations": View(iterations.draw, iterations.table),
}


@dataclass(frozen=True)
class Panel:
    """A panel with the curves that it shows, as the result files hold them, and the name of the view."""

    title: str
    curves: list[Curve]
    view: str


def read_figure(path: Path, results: Path) -> list[Panel]:
    """Reads a figure's YAML file and the result files that it names.

    Args:
        path: experiments/<paper>/<figure>.yaml.
        results: folder of the result files; those of the same paper are read.

    Raises:
        FileError: a file is missing.
        ConfigError: an unknown key, or a curve that its result file lacks; curves of two kinds in one panel.
    """
    panels = read_yaml(FigureConfig, path).panels
    folder = results / path.parent.name
    return [_panel(panel, [_find(folder, name) for name in panel.curves]) for panel in panels]


def draw_figure(panels: list[Panel], path: Path) -> None:
    """Writes the panels side by side."""
    axes = new_axes(len(panels))
    for panel, ax in zip(panels, axes if len(panels) > 1 else [axes], strict=True):
        for curve in panel.curves:
            VIEWS[panel.view].draw(ax, curve)
        ax.set_title(panel.title)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="lower right" if panel.view in ("budgets", "macs") else "upper right")
    save_figure(axes[0].figure if len(panels) > 1 else axes.figure, path)


def summary(panels: list[Panel]) -> list[Any]:
    """Rich tables: one for all curves over the budget, one for each other panel."""
    over_budget = {c["name"]: c for panel in panels if panel.view == "budgets" for c in panel.curves}
    tables = [budgets.table(list(over_budget.values()))] if over_budget else []
    for panel in panels:
        make = VIEWS[panel.view].table
        if make is not None and panel.view != "budgets":
            table = make(panel.curves)
            table.title = panel.title
            tables.append(table)
    return tables


def _panel(config: PanelConfig, curves: list[Curve]) -> Panel:
    views = {"macs" if "points" in curve else "budgets" for curve in curves}
    if len(views) > 1:
        raise ConfigError(f"{config.title}: a panel shows curves over the budget or points over MACs, not both")
    view = "profiles" if config.learned else "iterations" if config.layer else views.pop()
    if config.layer:
        curves = [iterations.of_layer(curve, config.layer) for curve in curves]
    return Panel(config.title, curves, view)


def _find(folder: Path, name: str) -> Curve:
    figure, _, curve = name.partition(": ")
    curves = {c["name"]: c for c in read_json(folder / f"{figure}.json")["curves"]}
    if curve not in curves:
        raise ConfigError(unknown(f"curve in {figure}", curve, curves))
    found: Curve = curves[curve]
    return found
