"""Figures and tables from result files, the paper's numbers beside ours.

A view is how curves are drawn and tabulated: one file in `tapernet.views` and one line in `VIEWS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapernet.config import read_curve_names, read_mapping, read_yaml
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
    """What a panel shows.

    Args:
        title: above it.
        curves: as the result files hold them.
        view: a name in `VIEWS`.
        missing: names of curves of an experiment that were not run yet.
    """

    title: str
    curves: list[Curve]
    view: str
    missing: list[str]


def read_figure(path: Path, results: Path) -> list[Panel]:
    """Reads a figure's YAML file and the result files that it names.

    Args:
        path: experiments/<paper>/<figure>.yaml.
        results: folder of the result files; those of the same paper are read.

    Raises:
        FileError: a file is missing.
        ConfigError: an unknown key, or a curve that neither a result file nor an experiment has; curves of two kinds in
            one panel.
    """
    if "panels" not in read_mapping(path):
        raise ConfigError(f"{path} is no figure, as it has no panels; `tapernet reproduce` runs it, if an experiment")
    folder = results / path.parent.name
    sources: dict[str, dict[str, Curve | None]] = {}

    def find(name: str) -> Curve | None:
        figure, _, curve = name.partition(": ")
        if figure not in sources:
            sources[figure] = _curves_of(path.with_name(f"{figure}.yaml"), folder / f"{figure}.json")
        if curve not in sources[figure]:
            raise ConfigError(unknown(f"curve in {figure}", curve, sources[figure]))
        return sources[figure][curve]

    found = []
    for config in read_yaml(FigureConfig, path).panels:
        curves = {name: find(name) for name in config.curves}
        missing = [name for name, curve in curves.items() if curve is None]
        found.append(_panel(config, [curve for curve in curves.values() if curve is not None], missing))
    return found


def draw_figure(panels: list[Panel], path: Path) -> None:
    """Writes the panels side by side, without those that have no curve yet."""
    from matplotlib import color_sequences

    panels = [panel for panel in panels if panel.curves]
    axes = new_axes(len(panels), 6.0 if any(panel.view == "macs" for panel in panels) else 4.2)
    for panel, ax in zip(panels, axes if len(panels) > 1 else [axes], strict=True):
        ax.set_prop_cycle(color=[*color_sequences["tab10"], "black", "navy", "gold", "magenta"])  # ten are too few
        for curve in panel.curves:
            VIEWS[panel.view].draw(ax, curve)
        ax.set_title(panel.title)
        ax.grid(alpha=0.3)
        if panel.view == "macs":  # points may lie anywhere: the legend goes below
            ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15))
        else:
            ax.legend(loc="lower right" if panel.view == "budgets" else "upper right", fontsize=8)
    save_figure(axes[0].figure if len(panels) > 1 else axes.figure, path)


def summary(panels: list[Panel]) -> list[Any]:
    """Rich tables: one for all curves over the budget, one for each other panel."""
    over_budget = {c["name"]: c for panel in panels if panel.view == "budgets" for c in panel.curves}
    tables = [budgets.table(list(over_budget.values()))] if over_budget else []
    for panel in panels:
        if not panel.curves:
            continue
        make = VIEWS[panel.view].table
        if make is not None and panel.view != "budgets":
            table = make(panel.curves)
            table.title = panel.title
            tables.append(table)
    return tables


def _panel(config: PanelConfig, curves: list[Curve], missing: list[str]) -> Panel:
    views = {"macs" if "points" in curve else "budgets" for curve in curves}
    if len(views) > 1:
        raise ConfigError(f"{config.title}: a panel shows curves over the budget or points over MACs, not both")
    view = "profiles" if config.learned else "iterations" if config.layer else views.pop() if views else "budgets"
    if config.layer:
        curves = [iterations.of_layer(curve, config.layer) for curve in curves]
    return Panel(config.title, curves, view, missing)


def _curves_of(experiment: Path, result: Path) -> dict[str, Curve | None]:
    """The curves of a result file by name; None for those that the experiment has, but that were not run yet."""
    planned: dict[str, Curve | None] = dict.fromkeys(read_curve_names(experiment)) if experiment.exists() else {}
    run = read_json(result)["curves"] if result.exists() or not planned else []
    # A result file may hold a curve before its first point.
    return planned | {curve["name"]: curve if curve.get("points", curve.get("seeds")) else None for curve in run}
