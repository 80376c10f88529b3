from pathlib import Path
from typing import Any

import pytest

from tapernet import load, load_data
from tapernet.cli import main
from tapernet.errors import ConfigError, FileError
from tapernet.experiment import common, reproduce
from tapernet.experiment import curves as module
from tapernet.experiment.common import Job
from tapernet.files import read_json
from tapernet.measure.accuracy import accuracies
from tapernet.report import read_figure

TEXT = """
title: A small figure
data: digits
validation: 100
seeds: [0, 1]
budgets: [0.2, 1.0]
model: {name: mlp, arguments: {hidden: [10, 8]}, keep: [fc2]}
curves:
  - name: one network
    profile: trainable
    recipe: {class_path: TESLA, init_args: {budgets: [1.0, 0.2], max_epochs: 1}}
    paper: [0.5, null]
    paper_mean: 0.7
  - name: separate
    separate: true
    recipe: {class_path: IDP, init_args: {max_epochs: 1, patience: null}}
"""
FIGURE = """
panels:
  - {title: accuracy, curves: ["small: one network", "small: separate"]}
  - {title: profiles, curves: ["small: one network"], learned: true}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experiments" / "paper").mkdir(parents=True)
    (tmp_path / "experiments" / "paper" / "small.yaml").write_text(TEXT)
    (tmp_path / "experiments" / "paper" / "figure.yaml").write_text(FIGURE)
    return tmp_path


def yaml_of(folder: Path) -> Path:
    return folder / "experiments" / "paper" / "small.yaml"


def run(folder: Path, **options: Any) -> dict[str, Any]:
    result = folder / "results" / "paper" / "small.json"
    reproduce(yaml_of(folder), Job(result, folder / "runs", say=lambda _: None, **options))
    found: dict[str, Any] = read_json(result)
    return found


def test_a_result_file_holds_what_was_measured_and_is_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, separate = run(folder)["curves"]
    assert one["name"] == "one network"
    assert one["seeds"] == [0, 1]
    assert one["budgets"] == [0.2, 1.0]
    assert all(0 <= a <= 1 for row in one["accuracy"] for a in row)
    assert [len(row) for row in one["accuracy"]] == [2, 2]
    assert one["macs"] == separate["macs"] == [64 * 2 + 2 * 8 + 8 * 10, 64 * 10 + 10 * 8 + 8 * 10]
    assert one["paper"] == [0.5, None]
    assert [len(p) for p in one["learned_profile"]] == [10, 10]
    monkeypatch.chdir(folder)
    assert main(["report", "paper/figure"]) == 0
    assert (folder / "results" / "paper" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_there_is_not_run_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(folder, only=["one network"])
    assert [c["name"] for c in first["curves"]] == ["one network"]
    trained: list[str] = []
    original = module._Run.train
    monkeypatch.setattr(
        module._Run, "train", lambda self, *a: (trained.append(self.config.name), original(self, *a))[1]
    )
    both = run(folder)
    assert both["curves"][0] == first["curves"][0]
    assert set(trained) == {"separate"}
    trained.clear()
    assert run(folder) == both
    assert not trained


def test_a_stop_between_two_trainings_loses_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = module._Run.train, 0

    def stop_at_second(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module._Run, "train", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    kept = read_json(folder / "results" / "paper" / "small.json")["curves"][0]
    assert kept["seeds"] == [0]
    assert run(folder)["curves"][0]["accuracy"][0] == kept["accuracy"][0]


def test_a_curve_made_with_other_settings_is_not_mixed_in(folder: Path) -> None:
    run(folder, only=["one network"])
    path = folder / "experiments" / "paper" / "small.yaml"
    path.write_text(path.read_text().replace("max_epochs: 1}", "max_epochs: 2}"))
    with pytest.raises(ConfigError, match="other settings"):
        run(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", r"small.yaml: unknown key 'titel' \(did you mean 'title'\?\); valid: .*seeds"),
        ("class_path: TESLA", "class_path: TELSA", "unknown recipe 'TELSA'"),
        ("max_epochs: 1}", "max_epoch: 1}", "max_epoch"),
        ("name: separate", "name: one network", "same name"),
        ("title:", "kind: budgts\ntitle:", "unknown kind of experiment 'budgts'"),
    ],
)
def test_a_mistake_in_the_file_is_named(old: str, new: str, message: str, folder: Path) -> None:
    path = folder / "experiments" / "paper" / "small.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        run(folder)


def test_missing_files_and_curves_list_what_there_is(folder: Path) -> None:
    with pytest.raises(FileError, match="paper/figure, paper/small"):
        reproduce(folder / "experiments" / "paper" / "none.yaml", Job(folder / "none.json", folder / "runs"))
    with pytest.raises(ConfigError, match="unknown curve 'sepa'"):
        run(folder, only=["sepa"])
    run(folder, only=["one network"])
    figure = folder / "experiments" / "paper" / "figure.yaml"
    assert [p.missing for p in read_figure(figure, folder / "results")] == [["small: separate"], []]
    figure.write_text(figure.read_text().replace("separate", "separately"))
    with pytest.raises(ConfigError, match=r"unknown curve in small 'separately'.*one network, separate"):
        read_figure(figure, folder / "results")


def test_curves_may_start_from_one_trained_network(folder: Path) -> None:
    path = yaml_of(folder)
    path.write_text(path.read_text() + "base: {epochs: 6, settings: {batch_size: 32, lr: 0.01}}\n")
    (curve,) = run(folder, only=["one network"])["curves"]
    assert curve["config"]["base"]["epochs"] == 6
    base = load(folder / "runs" / "base" / "seed0" / "net.safetensors")
    digits = load_data("digits").test
    (accuracy,) = accuracies(base, digits.as_float(), digits.labels, [1.0])
    assert accuracy > 0.6
    assert curve["accuracy"][0][1] > 0.6  # one epoch alone is at a guess


def test_the_numbers_are_of_the_test_images(folder: Path) -> None:
    curve = run(folder, only=["one network"])["curves"][0]
    net = load(folder / "runs" / "one-network" / "seed0" / "net.safetensors")
    splits = load_data("digits")
    budgets = curve["budgets"]
    assert curve["accuracy"][0] == accuracies(net, splits.test.as_float(), splits.test.labels, budgets)
    assert curve["accuracy"][0] != accuracies(net, splits.train.as_float(), splits.train.labels, budgets)


def test_weights_of_an_earlier_run_are_not_told_to_be_of_todays_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = yaml_of(folder)
    path.write_text(path.read_text() + "base: {epochs: 1}\n")
    for commit in ("aaa-dirty", "bbb"):
        monkeypatch.setattr(common, "commit", lambda commit=commit: commit)
        curves = run(folder)["curves"]
        (folder / "results" / "paper" / "small.json").unlink()
    assert [curve["commit"] for curve in curves] == [["aaa-dirty+bbb"] * 2] * 2
