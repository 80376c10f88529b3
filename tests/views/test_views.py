"""Result files of both kinds as tables and pictures."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tapernet.cli import main
from tapernet.errors import ConfigError
from tapernet.report import read_figure, summary
from tapernet.views import budgets, iterations, macs

SITUATIONS = ("true positive", "true negative", "false positive", "false negative")


def point(value: float, seed: int, accuracy: float, done: float, *, saved: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "seed": seed, "point": value, "accuracy": accuracy, "macs": done, "saved": saved, "minutes": 2.0,
        "validation": None, "before": {"accuracy": accuracy - 0.1}, **more,
    }  # fmt: skip


def decisions(counts: tuple[int, int, int, int], done: int, total: int) -> list[dict[str, Any]]:
    situations = {name: {"count": count} for name, count in zip(SITUATIONS, counts, strict=True)}
    return [{"path": "conv1", "situations": situations, "done": done, "total": total}]


CURVES = [
    {"name": "baseline", "paper": [[10e6, 0.8]], "points": [point(0, 0, 0.9, 8e6), point(0, 1, 0.8, 8e6)]},
    {"name": "stopped", "paper": None, "points": [
        point(0.2, 0, 0.7, 2e6, saved=0.75), point(0.1, 0, 0.8, 4e6, saved=0.5, validation=0.85),
    ]},
    {"name": "check", "paper": [[3, 0.6, 0.4]], "points": [
        point(3, 0, 0.7, 2e6, layers=decisions((1, 6, 0, 2), 60, 100)),
        point(3, 1, 0.7, 2e6, layers=decisions((1, 8, 0, 0), 80, 100)),
        point(7, 0, 0.7, 2e6, layers=decisions((9, 0, 0, 0), 100, 100)),
    ]},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experiments" / "paper").mkdir(parents=True)
    (tmp_path / "results" / "paper").mkdir(parents=True)
    (tmp_path / "results" / "paper" / "net.json").write_text(json.dumps({"curves": CURVES}))
    budgets = {"name": "dial", "budgets": [0.1, 1.0], "accuracy": [[0.5, 0.9]], "paper": None, "paper_mean": None,
               "seeds": [0], "minutes": [1.0]}  # fmt: skip
    (tmp_path / "results" / "paper" / "dial.json").write_text(json.dumps({"curves": [budgets]}))
    return tmp_path


def figure(folder: Path, text: str) -> Path:
    path = folder / "experiments" / "paper" / "figure.yaml"
    path.write_text(text)
    return path


BOTH = """
panels:
  - {title: points, curves: ["net: baseline", "net: stopped"]}
  - {title: one check, layer: conv1, curves: ["net: check"]}
"""


def printed(table: Any) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


def test_points_over_macs_and_over_positions(folder: Path) -> None:
    panels = read_figure(figure(folder, BOTH), folder / "results")
    points, positions = summary(panels)
    rows = printed(points)
    assert [row[:6] for row in rows] == [
        ["baseline", "0", "2", "8.000", "0.00%", "85.00% (7.07)"],
        ["baseline (paper)", "", "", "10.000", "-25.00%", "80.00%"],
        ["stopped", "0.1", "1", "4.000", "50.00%", "80.00%"],
        ["stopped", "0.2", "1", "2.000", "75.00%", "70.00%"],
    ]
    assert rows[0][6:] == ["75.00%", "", "2.0"]
    assert rows[2][7] == "85.00%"
    assert printed(positions) == [
        ["check", "3", "87.50%", "60.00%", "30.00%", "40.00%"],
        ["check", "7", "nan%", "", "0.00%", ""],
    ]
    Console(file=None, quiet=True).print(points)


def test_it_is_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figure(folder, BOTH)
    monkeypatch.chdir(folder)
    assert main(["report", "paper/figure"]) == 0
    assert (folder / "results" / "paper" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "one check" in capsys.readouterr().out


def test_what_was_not_run_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "experiments" / "paper" / "net.yaml").write_text("curves: [{name: later}]")
    (folder / "experiments" / "paper" / "new.yaml").write_text("curves: [{name: later}]")
    results = folder / "results" / "paper" / "net.json"  # a stopped run leaves curves without a point
    results.write_text(json.dumps({"curves": [*CURVES, {"name": "begun", "points": [], "paper": None}]}))
    curves = '["net: stopped", "net: later", "net: begun"]'
    figure(folder, f'panels: [{{title: a, curves: {curves}}}, {{title: b, curves: ["new: later"]}}]')
    monkeypatch.chdir(folder)
    assert main(["report", "paper/figure"]) == 0
    out = capsys.readouterr().out
    assert "a: not run yet: net: later; net: begun" in out
    assert "b: not run yet: new: later" in out
    figure(folder, 'panels: [{title: b, curves: ["new: later"]}]')
    assert main(["report", "paper/figure"]) == 2
    assert "paper/figure: none of its curves has been run" in capsys.readouterr().err


def test_all_figures_make_one_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    figure(folder, BOTH)
    (folder / "experiments" / "paper" / "new.yaml").write_text("curves: [{name: later <b>}]")
    (folder / "experiments" / "paper" / "empty.yaml").write_text('panels: [{title: b, curves: ["new: later <b>"]}]')
    (folder / "experiments" / "paper" / "half.yaml").write_text(
        'panels: [{title: c, curves: ["net: baseline", "new: later <b>"]}]'
    )
    assert main(["report", "--page", "page.html"]) == 0
    page = (folder / "page.html").read_text()
    assert page.count("<section") == page.count("data:image/png;base64,") == 2
    assert "new: later &lt;b&gt;" in page
    assert "<b>" not in page
    assert "baseline" in page
    assert "http" not in page
    assert main(["report", "paper/half", "paper/figure"]) == 0
    assert capsys.readouterr().out.count("wrote results/paper") == 4


def test_points_are_grouped_over_seeds_in_order() -> None:
    assert [[p["seed"] for p in group] for group in macs.by_point(CURVES[2])] == [[0, 1], [0]]


def test_mistakes_are_named(folder: Path) -> None:
    mixed = figure(folder, 'panels: [{title: t, curves: ["net: baseline", "dial: dial"]}]')
    with pytest.raises(ConfigError, match="not both"):
        read_figure(mixed, folder / "results")
    with pytest.raises(ConfigError, match="unknown layer that stops early 'conv9'"):
        iterations.of_layer(CURVES[2], "conv9")
    with pytest.raises(ConfigError, match="unknown curve in net 'stoped'"):
        read_figure(figure(folder, 'panels: [{title: t, curves: ["net: stoped"]}]'), folder / "results")


def test_names_of_curves_stay_whole_at_100_columns() -> None:
    curve = {"name": "slimmable with isotonic, all-one", "budgets": [0.1, 0.2, 0.5, 1.0], "minutes": [13.5] * 2,
             "accuracy": [[0.9, 0.91, 0.95, 0.99], [0.8, 0.81, 0.85, 0.89]], "paper_mean": 0.947}  # fmt: skip
    console = Console(width=100, file=io.StringIO())
    console.print(budgets.table([curve]))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert all(word in printed for word in [*str(curve["name"]).split(), "85.00%", "94.7%", "13.5"])
    assert "…" not in printed
    assert all(line.rstrip()[-1] in "┓┃┩│┘" for line in printed.splitlines()[1:])  # the right edge is there, too
