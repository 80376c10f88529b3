"""Accuracy against MACs, from a YAML file to a result file, with a network that trains in a second."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tapernet import load, load_data
from tapernet.errors import ConfigError
from tapernet.experiment import base, reproduce
from tapernet.experiment.common import Job
from tapernet.files import read_json
from tapernet.measure.accuracy import accuracies

TEXT = """
kind: termination
title: A small figure
data: digits
model: {name: c10net}
validation: 1000
seeds: [3]
base: {epochs: 2, settings: {lr: 0.003}}
tuning: {epochs: 1, settings: {lr: 0.0003}}
phases: {longer: {epochs: 3, settings: {lr: 0.0001}}}
curves:
  - {name: baseline, training: none}
  - {name: control}
  - {name: paper, method: terminate, points: [0.1, 0.5], paper: [[1000, 0.9]]}
  - {name: ours, method: terminate, points: [0.1], options: {placement: greedy, bias_first: true}, mac_penalty: 0.2}
  - {name: taught, points: [0], taught: 1.0}
  - {name: PFEC, method: prune, options: {method: pfec}, points: [0.5]}
  - {name: small from scratch, method: scratch, points: [0.5], training: base}
  - {name: longer, training: longer}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "figure.yaml").write_text(TEXT)
    return tmp_path


def run(folder: Path, **options: Any) -> dict[str, Any]:
    job = Job(folder / "figure.json", folder / "runs", say=lambda _: None, **options)
    reproduce(folder / "figure.yaml", job)
    found = read_json(folder / "figure.json")["curves"]
    return {curve["name"]: curve for curve in found}


def test_every_method_is_measured_from_one_network(folder: Path) -> None:
    curves = run(folder)
    baseline = {p["seed"]: p for p in curves["baseline"]["points"]}
    assert set(baseline) == {3}
    for name, curve in curves.items():
        assert curve["points"]
        for point in curve["points"]:
            start = baseline[point["seed"]]
            assert 0 <= point["accuracy"] <= 1
            if name in ("control", "paper", "ours", "taught"):  # the same network underneath
                assert point["before"]["macs"] / (1 - point["before"]["saved"]) == pytest.approx(start["macs"])
            if name in ("PFEC", "small from scratch"):
                assert point["macs"] < 0.6 * start["macs"]
    assert curves["baseline"]["points"][0]["before"]["accuracy"] == baseline[3]["accuracy"]
    assert curves["control"]["points"][0]["before"]["accuracy"] == baseline[3]["accuracy"]
    stopped = curves["paper"]["points"][1]
    assert stopped["saved"] > 0
    assert sum(layer["done"] for layer in stopped["layers"]) < sum(layer["total"] for layer in stopped["layers"])


def test_a_curve_may_have_a_training_of_its_own(folder: Path) -> None:
    curves = run(folder, only=["control", "longer"])
    assert [curves[name]["config"]["training"]["epochs"] for name in ("control", "longer")] == [1, 3]
    rows = (folder / "runs" / "longer" / "seed3" / "0" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 3


def test_a_curve_takes_what_it_does_not_say_from_its_training(folder: Path) -> None:
    tuning = "tuning: {epochs: 1, mac_penalty: 0.3, threshold_scale: 2.0, "
    own = "options: {gradient: gated}, mac_penalty: 0.0"
    text = TEXT.replace("tuning: {epochs: 1, ", tuning).replace(
        "points: [0.1, 0.5]", "points: [0.5], options: {gradient: gated}"
    )
    text = text.replace("options: {placement: greedy, bias_first: true}, mac_penalty: 0.2", own)
    (folder / "figure.yaml").write_text(text)
    curves = run(folder, only=["paper", "ours"])
    trained = [curves[name]["config"]["training"] for name in ("paper", "ours")]
    assert [(t["mac_penalty"], t["threshold_scale"]) for t in trained] == [(0.3, 2.0), (0.0, 2.0)]
    for layer in curves["paper"]["points"][0]["layers"]:
        assert all(len(set(check["threshold"])) > 1 for check in layer["checks"])


def test_a_saved_network_has_the_accuracy_that_the_file_tells(folder: Path) -> None:
    point = run(folder, only=["paper"])["paper"]["points"][0]
    net = load(folder / "runs" / "paper" / "seed3" / "0.1" / "net.safetensors")
    test = load_data("digits").test
    assert accuracies(net, test.as_float(), test.labels, [1.0]) == [point["accuracy"]]


def test_a_stop_loses_nothing_and_more_points_may_be_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "figure.yaml"
    path.write_text(path.read_text().replace("points: [0.1, 0.5], paper", "points: [0.5], paper"))
    first = run(folder, only=["paper"])["paper"]
    fits: list[object] = []
    original = base.fit
    monkeypatch.setattr(base, "fit", lambda *a, **k: (fits.append(a), original(*a, **k))[1])
    assert run(folder, only=["paper"])["paper"] == first
    assert not fits
    path.write_text(path.read_text().replace("points: [0.5], paper", "points: [0.5, 0.3], paper"))
    more = run(folder, only=["paper"])["paper"]["points"]
    assert [p for p in more if p["point"] != 0.3] == first["points"]
    # What a killed run has made is not made again: without the result file the same numbers come from the runs.
    (folder / "figure.json").unlink()
    fits.clear()
    again = run(folder, only=["paper"])["paper"]["points"]
    order = {p["point"]: p | {"commit": None} for p in again}
    assert order == {p["point"]: p | {"commit": None} for p in more}


def test_a_phase_may_have_a_teacher_of_its_own(folder: Path) -> None:
    path = folder / "figure.yaml"
    path.write_text(path.read_text().replace("tuning: {", "tuning: {taught: 0.9, teacher: mlp-digits, "))
    text = path.read_text().replace("settings: {lr: 0.003}}", "taught: 0.5, teacher: mlp-digits, settings: {views: 1}}")
    path.write_text(text)
    curves = run(folder, only=["baseline", "control", "taught"])
    assert curves["control"]["config"]["base"]["teacher"] == "mlp-digits"
    shares = {name: curves[name]["config"]["training"]["taught"] for name in ("control", "taught")}
    assert shares == {"control": 0.9, "taught": 1.0}
    # One view, asked about once: the base's; the fine-tuning asks step by step.
    assert len(list((folder / "runs" / "answers").iterdir())) == 1


def test_a_base_that_nobody_teaches_is_refused(folder: Path) -> None:
    path = folder / "figure.yaml"
    path.write_text(path.read_text().replace("base: {epochs: 2,", "base: {epochs: 2, taught: 0.5,"))
    with pytest.raises(ConfigError, match="base: a share of the labels is taught, but no teacher is named"):
        run(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: terminate, points: [0.1, 0.5]", "method: terminat", "did you mean 'terminate'"),
        ("training: base", "training: bse", "did you mean 'base'"),
        ("phases: {longer", "phases: {tuning", "phases: tuning has its meaning already"),
        ("placement: greedy", "placement: greedi", "did you mean 'greedy'"),
        ("placement: greedy", "placment: greedy", "placment"),
        ("lr: 0.003", "lrr: 0.003", r"settings: unknown key 'lrr' \(did you mean 'lr'\?\)"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, message: str, folder: Path) -> None:
    path = folder / "figure.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        run(folder)


def test_a_curve_made_with_other_settings_is_not_mixed_in(folder: Path) -> None:
    run(folder, only=["baseline"])
    path = folder / "figure.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(ConfigError, match="other settings"):
        run(folder, only=["baseline"])


def test_untrained_weights_are_drawn_anew_for_the_small_network(folder: Path) -> None:
    run(folder, only=["PFEC", "small from scratch"])
    pruned, scratch = (
        load(folder / "runs" / name / "seed3" / "0.5" / "before.safetensors") for name in ("pfec", "small-from-scratch")
    )
    for a, b in zip(pruned.parameters(), scratch.parameters(), strict=True):
        assert a.shape == b.shape
        assert not torch.equal(a, b)
