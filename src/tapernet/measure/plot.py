"""Pictures of curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapernet.budget import shown
from tapernet.errors import ConfigError
from tapernet.files import write_atomically
from tapernet.registry import unknown

if TYPE_CHECKING:
    from tapernet.measure.curve import Curve
    from tapernet.measure.joint import JointTable


def plot_curves(curves: Sequence["Curve"], ax: Any = None) -> Any:
    """Accuracy against MACs, a line for each curve, each point marked with its budget; returns the figure."""
    ax = new_axes() if ax is None else ax
    for curve in curves:
        line = [p for p in curve.points if not isinstance(p.budget, str)]
        (drawn,) = ax.plot([p.macs / 1e3 for p in line], [p.accuracy * 100 for p in line], "o-", label=curve.name)
        # Named budgets have widths of their own and are not on the line.
        named = [p for p in curve.points if isinstance(p.budget, str)]
        ax.plot([p.macs / 1e3 for p in named], [p.accuracy * 100 for p in named], "x", color=drawn.get_color())
    if len(curves) == 1:
        for p in curves[0].points:
            ax.annotate(
                shown(p.budget),
                (p.macs / 1e3, p.accuracy * 100),
                textcoords="offset points",
                xytext=(4, -11),
                fontsize=8,
                color="0.4",
            )
    ax.set(xlabel="thousand multiply-accumulates per image", ylabel="accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax.figure


def plot_joint(table: "JointTable") -> Any:
    """Accuracy against MACs with checks and without, points of one budget joined by a thin line; returns the figure."""
    ax = new_axes()
    for p in table.points:
        ax.plot([p.unchecked_macs / 1e3, p.macs / 1e3], [p.unchecked_accuracy * 100, p.accuracy * 100], "-",
                color="0.7", lw=0.8, zorder=0)  # fmt: skip
    ax.plot([p.unchecked_macs / 1e3 for p in table.points], [p.unchecked_accuracy * 100 for p in table.points], "o-",
            label="without checks")  # fmt: skip
    ax.plot([p.macs / 1e3 for p in table.points], [p.accuracy * 100 for p in table.points], "o-", label="with checks")
    ax.set(title=table.name, xlabel="thousand multiply-accumulates per image", ylabel="accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax.figure


def new_axes(columns: int = 1, height: float = 4.2) -> Any:
    """New axes that need no display, `height` inches high; several side by side come as an array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 if columns == 1 else 4.6 * columns, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure.subplots(1, columns)


def picture_grid(rows: int, columns: int) -> tuple[Any, Any]:
    """A figure of small pictures, and its axes as a (rows, columns) array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.15 * columns, 1.45 * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def check_ending(path: str | Path, others: Sequence[str] = ()) -> None:
    """Raises ConfigError if the ending is none of matplotlib's pictures and none of the others."""
    from matplotlib.backend_bases import FigureCanvasBase

    valid = [*others, *(f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes())]
    suffix = Path(path).suffix
    if suffix and suffix not in valid:
        raise ConfigError(unknown("ending", suffix, valid))


def save_figure(figure: Any, path: str | Path) -> None:
    """Writes a figure atomically, in the format of the path's ending (.png without one); ConfigError for others."""
    check_ending(path)
    path = Path(path)
    write_atomically(path, lambda part: figure.savefig(part, format=path.suffix.lstrip(".") or "png"))
