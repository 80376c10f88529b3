"""`tapernet report`."""

from pathlib import Path

from tapernet.commands.console import show
from tapernet.config import read_mapping
from tapernet.errors import ConfigError
from tapernet.page import Section, write_page
from tapernet.report import Panel, draw_figure, read_figure, summary


def report(
    figures: list[str] | None = None,
    experiments: str = "experiments",
    results: str = "results",
    page: str | None = None,
) -> None:
    """Draws figures from result files, and prints their curves beside the paper's.

    Args:
        figures: <paper>/<figure> each, as in tesla/figure3; by default all of which something was run.
        experiments: folder of the YAML files.
        results: folder of the result files; the pictures are written there.
        page: also write figures and tables as one HTML page that needs no other file.
    """
    sections = []
    for figure in figures or _all(Path(experiments)):
        layout = read_figure(Path(experiments) / f"{figure}.yaml", Path(results))
        if any(panel.curves for panel in layout):
            sections.append(_show(figure, layout, Path(results) / f"{figure}.png"))
        elif figures:
            raise ConfigError(f"{figure}: none of its curves has been run: tapernet reproduce <paper>/<name>")
    if not sections:
        raise ConfigError(f"{experiments} has no figure of which something was run")
    if page is not None:
        write_page(page, sections)
        show(f"wrote {page}")


def _all(experiments: Path) -> list[str]:
    paths = sorted(path for path in experiments.glob("*/*.yaml") if "panels" in read_mapping(path))
    return [str(path.relative_to(experiments).with_suffix("")) for path in paths]


def _show(figure: str, layout: list[Panel], picture: Path) -> Section:
    """Prints and draws a figure."""
    draw_figure(layout, picture)
    tables = summary(layout)
    notes = [f"{panel.title}: not run yet: {'; '.join(panel.missing)}" for panel in layout if panel.missing]
    for shown in (*tables, *notes, f"wrote {picture}"):
        show(shown)
    return Section(figure, picture.read_bytes(), tables, notes)
