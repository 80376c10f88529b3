import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tapernet import FineTune, InputSpec, Settings, count_termination, fit, load, load_data, save, taper, zoo
from tapernet.cli import main
from tapernet.files import read_json
from tapernet.measure.accuracy import accuracies
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import terminating_layers
from tapernet.placement import layer_time
from tapernet.train import loop


def run(folder: Path, *options: str) -> dict[str, Any]:
    assert main(["terminate", *options, "--output", str(folder / "out.safetensors")]) == 0
    found: dict[str, Any] = read_json(folder / "out.json")
    return found


def test_checks_are_placed_tuned_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, "--tolerance", "0.2", "--epochs", "1", "--control", "true", "--run_dir", str(tmp_path / "r"))
    net, test = load(tmp_path / "out.safetensors"), load_data("digits").test
    names = [table["name"] for table in found["measured"]]
    assert names == ["placed", "control", "tuned"]
    _, control, tuned = (table["points"][0] for table in found["measured"])
    assert tuned["accuracy"] == accuracies(net, test.as_float(), test.labels, [1.0])[0]
    assert tuned["macs"] == found["counted"]["done"] == count_termination(net, test).done
    assert control["saved"] == 0 < tuned["saved"]
    assert control["unchecked_accuracy"] == control["accuracy"]
    assert (tmp_path / "r" / "control" / "metrics.csv").exists()
    assert found["placement"]["accuracy"] > found["placement"]["accuracy_before"] - 0.2
    # The placement's checks are the file's.
    for path, checks in found["placement"]["checks"].items():
        assert [check.as_dict() for check in terminating_layers(net)[path].checks] == checks
    printed = capsys.readouterr().out
    assert "conv2" in printed
    assert main(["evaluate", "--net", str(tmp_path / "out.safetensors"), "--output", str(tmp_path / "e.json")]) == 0
    assert read_json(tmp_path / "e.json")["points"] == [tuned]
    assert "FN" in capsys.readouterr().out


def test_the_network_without_checks_may_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, bool, int]] = []

    def note(
        net: nn.Module, _: object, __: object, recipe: FineTune, *rest: object, teacher: nn.Module, **kw: object
    ) -> None:
        checks = sum(len(layer.checks) for layer in terminating_layers(teacher).values())
        seen.append((recipe.taught, teacher is net, checks))

    # By name, `tapernet.commands.terminate` is the function.
    monkeypatch.setattr(importlib.import_module("tapernet.commands.terminate"), "fit", note)
    run(tmp_path, "--tolerance", "0.2", "--epochs", "1", "--control", "true", "--taught", "0.5", "--images", "100")
    assert seen == [(0.5, False, 0)] * 2


@pytest.mark.parametrize("order", ["exact", "expected"])
def test_other_orders(order: str, tmp_path: Path) -> None:
    found = run(tmp_path, "--order", order, "--epochs", "0", "--images", "200", "--bias_first", "true")
    (placed,) = found["measured"]
    assert placed["points"][0]["saved"] > 0
    assert (found["placement"] is None) == (order == "exact")
    if order == "exact":
        assert placed["points"][0]["accuracy"] == placed["points"][0]["unchecked_accuracy"]


def test_a_network_with_a_dial_keeps_it(tmp_path: Path) -> None:
    train = load_data("digits").train
    torch.manual_seed(0)
    plain = zoo.create("c10net", input_shape=train.shape, classes=10, hidden=8)
    net = taper(plain, train.as_float()[:1])
    fit(
        net, train.take(range(300)), train.take(range(300)), FineTune(epochs=1), Settings(batch_size=20), progress=False
    )
    save(net, tmp_path / "dial", InputSpec(train.mean, train.std, train.class_names, "digits"))
    options = ("--net", str(tmp_path / "dial"), "--tolerance", "0.9", "--images", "100", "--epochs", "1")
    found = run(tmp_path, *options, "--budgets", "[1.0,0.5]", "--validation", "0.8")
    assert isinstance(load(tmp_path / "out.safetensors"), TaperedNet)
    points = found["measured"][-1]["points"]
    assert [p["budget"] for p in points] == [i / 10 for i in range(1, 11)]
    assert all(p["macs"] < p["unchecked_macs"] for p in points)


class Killed(Exception):
    """The run's process is gone."""


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each measurement finds other times: how much slower each was, which must not reach a resumed run."""
    factors: list[float] = []

    def measure(net: nn.Module, images: Tensor, settings: Sequence[Any], _: int) -> list[dict[str, float]]:
        factors.append(1.0 + len(factors))
        report = count_termination(net, images)
        return [
            {
                layer.path: factors[-1] ** i * (0.2 + checks[layer.path][0].share if checks else 1.0)
                for i, layer in enumerate(report.layers)
            }
            for checks in settings
        ]

    monkeypatch.setattr(layer_time, "measure_layers", measure)
    return factors


def test_a_resumed_run_keeps_the_times_of_its_start(
    tmp_path: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        "--placement", "timed", "--options", "{shares: [0.1, 0.3], bias_first: true}", "--tolerance", "0.3",
        "--images", "100", "--epochs", "2", "--mac_penalty", "0.5", "--penalty_of", "time", "--validation", "0.6",
    )  # fmt: skip
    unbroken = run(tmp_path / "a", *options)
    measured = len(times)
    assert set(unbroken["penalty_weights"]) == {p for p, checks in unbroken["placement"]["checks"].items() if checks}
    times.clear()
    epochs = 0

    def killed_in_the_second_epoch(*arguments: Any) -> list[float]:
        nonlocal epochs
        epochs += 1
        if epochs == 2:
            raise Killed
        return accuracies(*arguments)

    monkeypatch.setattr(loop, "accuracies", killed_in_the_second_epoch)
    with pytest.raises(Killed):
        run(tmp_path / "b", *options, "--run_dir", str(tmp_path / "r"))
    resumed = run(tmp_path / "b", *options, "--run_dir", str(tmp_path / "r"))
    assert len(times) == measured  # none of them in the resumed run
    assert resumed == unbroken
    a, b = (load(tmp_path / name / "out.safetensors").state_dict() for name in "ab")
    assert all(torch.equal(a[key], b[key]) or bool(a[key].isnan().all()) for key in a)


def test_a_folder_of_a_run_with_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--images", "50", "--epochs", "0", "--run_dir", str(tmp_path / "r"))
    first = run(tmp_path, *options, "--placement", "greedy")
    assert run(tmp_path, *options, "--placement", "greedy") == first
    assert main(["terminate", *options, "--output", str(tmp_path / "out")]) == 2
    assert "another folder" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{}", "[]", "cut of"])
def test_what_is_no_start_of_a_run_is_refused(
    text: str, tmp_path: Path, refused: Callable[[Sequence[str]], str]
) -> None:
    (tmp_path / "placed.json").write_text(text)
    assert "placed.json" in refused(["terminate", "--run_dir", str(tmp_path), "--images", "50"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--net", "no-such"], "no such file"),
        (["--net", "mlp-digits"], "no convolution can stop early"),
        (["--placement", "greedi"], "did you mean 'greedy'"),
        (["--options", "{shars: [0.1]}"], "did you mean 'shares'"),
        (["--order", "magnitud"], "did you mean 'magnitude'"),
        (["--tolerance", "1.5"], "from 0 to 1"),
        (["--budgets", "[0.5]"], "dial"),
        (["--mac_penalty", "-1"], "mac_penalty is a finite number from 0"),
        (["--penalty_of", "tim", "--mac_penalty", "1"], "did you mean 'time'"),
        (["--penalty_of", "time"], "mac_penalty above 0"),
        (["--penalty_of", "time", "--mac_penalty", "1", "--epochs", "0"], "mac_penalty is of the fine-tuning"),
        (["--mac_penalty", "1", "--epochs", "0"], "mac_penalty is of the fine-tuning, which needs epochs above 0"),
        (["--taught", "0.5", "--epochs", "0"], "taught is of the fine-tuning"),
        (["--control", "true", "--epochs", "0"], "control is of the fine-tuning"),
        (["--threshold_scale", "3", "--gradient", "gated", "--epochs", "0"], "threshold_scale is of the fine-tuning"),
        (
            ["--threshold_scale", "3", "--gradient", "gated", "--placement", "rounded"],
            "of a rounded sum does not learn",
        ),
        (["--epochs", "-1"], "epochs is at least 0, not -1"),
        (["--threshold_scale", "3"], "needs the gradient 'gated', not 'exact'"),
        (["--threshold_scale", "-3", "--gradient", "gated"], "threshold_scale is a finite number from 0"),
        (["--tolerence", "0.1"], "did you mean 'tolerance'"),
        (["--output", "/dev/null/net"], "cannot write"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_named_and_exits_2(
    options: list[str], message: str, refused: Callable[[Sequence[str]], str]
) -> None:
    assert message in refused(["terminate", "--images", "50", "--placement", "greedy-paper", *options])
