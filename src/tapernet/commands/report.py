"""`tapernet report`."""

from pathlib import Path

from tapernet.commands.console import show
from tapernet.report import draw_figure, read_figure, summary


def report(figure: str, experiments: str = "experiments", results: str = "results") -> None:
    """Draws a figure from result files, and prints its curves beside the paper's.

    Args:
        figure: <paper>/<figure>, as in tesla/figure3.
        experiments: folder of the YAML files.
        results: folder of the result files; the picture is written there.
    """
    layout = read_figure(Path(experiments) / f"{figure}.yaml", Path(results))
    picture = Path(results) / f"{figure}.png"
    draw_figure(layout, picture)
    for table in summary(layout):
        show(table)
    for panel in layout:
        if panel.missing:
            show(f"{panel.title}: not run yet: {'; '.join(panel.missing)}")
    show(f"wrote {picture}")
