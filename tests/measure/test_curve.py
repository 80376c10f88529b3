import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tapernet import Curve, ImageData, TaperedNet, evaluate, taper
from tapernet.errors import ConfigError, DataError, FileError

EXAMPLE = torch.zeros(1, 1, 4, 4)


@pytest.fixture
def net(plain: nn.Module) -> TaperedNet:
    return taper(plain, EXAMPLE)


def test_points_are_what_a_loop_over_images_finds(net: TaperedNet, val: ImageData) -> None:
    curve = evaluate(net, val, [0.5, 1.0], latency=False, batch_size=7)
    for point in curve.points:
        right = 0
        for image, label in zip(val.as_float(), val.labels, strict=True):
            with net.at(point.budget), torch.no_grad():
                right += int(net(image[None]).argmax() == label)
        assert point.accuracy == right / len(val)
        assert point.milliseconds is None
    assert [p.budget for p in curve.points] == [0.5, 1.0]
    assert curve.mean_accuracy == sum(p.accuracy for p in curve.points) / 2


def test_ten_budgets_by_default_and_the_network_left_as_it_was(net: TaperedNet, val: ImageData) -> None:
    net.train()
    net.budget = 0.4
    curve = evaluate(net, val)
    assert [round(p.budget * 100) for p in curve.points] == list(range(10, 101, 10))
    assert all(p.milliseconds is not None and p.milliseconds > 0 for p in curve.points)
    assert net.training
    assert net.budget == 0.4


def test_named_budgets_come_last_and_outside_the_mean(net: TaperedNet, val: ImageData) -> None:
    net.budgets["lean"] = {"*": 0.5}
    curve = evaluate(net, val, ["lean", 1.0, 0.5], latency=False)
    assert [p.budget for p in curve.points] == [0.5, 1.0, "lean"]
    half, full, lean = curve.points
    assert (lean.accuracy, lean.macs) == (half.accuracy, half.macs)
    assert curve.mean_accuracy == (half.accuracy + full.accuracy) / 2
    assert "lean" in list(curve.table().columns[0].cells)
    assert len(curve.plot().axes[0].lines[0].get_xdata()) == 2
    assert evaluate(net, val, ["lean"], latency=False).mean_accuracy == lean.accuracy
    with pytest.raises(ConfigError, match=r"unknown named budget 'laen'.*lean"):
        evaluate(net, val, ["laen"])


def test_a_plain_network_has_one_point(plain: nn.Module, val: ImageData) -> None:
    assert [p.budget for p in evaluate(plain, val, latency=False).points] == [1.0]
    with pytest.raises(ConfigError, match="has no dial"):
        evaluate(plain, val, [0.5])


def test_images_of_another_size_are_refused(net: TaperedNet) -> None:
    data = ImageData(torch.zeros(2, 1, 5, 5), torch.tensor([0, 1]), ("a", "b", "c"))
    with pytest.raises(DataError, match=r"\(1, 5, 5\), but the network takes \(1, 4, 4\)"):
        evaluate(net, data)


@pytest.mark.parametrize("bad", [0, 1.5, float("nan"), None])
def test_a_bad_budget_is_refused(bad: object, net: TaperedNet, val: ImageData) -> None:
    with pytest.raises(ConfigError, match="a budget"):
        evaluate(net, val, [bad])  # type: ignore[list-item]


def test_a_curve_is_saved_and_drawn(net: TaperedNet, val: ImageData, tmp_path: Path) -> None:
    curve = evaluate(net, val, [0.5, 1.0], latency=False, name="ours")
    for suffix in ("json", "csv", "png", "svg"):
        curve.save(tmp_path / f"curve.{suffix}")
    assert Curve.load(tmp_path / "curve.json") == curve
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert lines[0].startswith("budget,accuracy,macs")
    assert len(lines) == 3
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    axes = curve.plot().axes[0]
    assert axes.lines[0].get_ydata().tolist() == [p.accuracy * 100 for p in curve.points]
    assert "ours" in curve.table().title


def test_a_file_that_is_no_curve_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(FileError, match="does not hold a curve"):
        Curve.load(tmp_path / "a.json")


@pytest.mark.parametrize("bad", [0.5, "fast"])
def test_one_budget_in_place_of_several_is_refused(bad: object, net: TaperedNet, val: ImageData) -> None:
    with pytest.raises(ConfigError, match="several numbers or names"):
        evaluate(net, val, bad)  # type: ignore[arg-type]


def test_a_picture_of_no_known_kind_is_refused(net: TaperedNet, val: ImageData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown ending '.pgn' \(did you mean '.png'\?\)"):
        evaluate(net, val, [1.0], latency=False).save(tmp_path / "curve.pgn")
    assert not list(tmp_path.iterdir())
