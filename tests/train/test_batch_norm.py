"""Training of networks with batch-norm: which statistics are there afterwards, and what is said of missing ones."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tapernet import TESLA, FineTune, ImageData, Settings, TaperedNet, calibrate, evaluate, fit, load, save, taper
from tapernet.errors import ConfigError
from tapernet.train.loop import _least_batch

EXAMPLE = torch.zeros(2, 1, 4, 4)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


@pytest.fixture
def net() -> TaperedNet:
    return taper(network(), EXAMPLE, profile="all-one")


def test_every_trained_budget_and_every_calibrated_one_has_statistics(
    net: TaperedNet, train: ImageData, val: ImageData
) -> None:
    net.name_budget("lean", {"0": 0.5, "4": 0.25})
    calibrate(net, [train.as_float()], [0.33, "lean"])
    stale = {key: norm.stored(key) for norm in net.batch_norms() for key in ("33",)}
    fit(net, train, val, TESLA(budgets=(1.0, 0.25), max_epochs=1), Settings(batch_size=30), progress=False)
    assert not net.training
    curve = evaluate(net, val, [1.0, 0.25, 0.33, 0.3, "lean"], latency=False)
    assert len(curve.points) == 5
    again = {key: norm.stored(key) for norm in net.batch_norms() for key in ("33",)}
    assert any(not torch.equal(again["33"][k], stale["33"][k]) for k in again["33"])  # measured anew


def test_a_forward_pass_that_trains_drops_statistics_and_says_so(net: TaperedNet, train: ImageData) -> None:
    calibrate(net, [train.as_float()], [0.5, 1.0])
    net.train()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        net(train.as_float())
    assert {0.5, 1.0} == set(net.calibrated_budgets())
    with pytest.warns(RuntimeWarning, match="training drops the batch-norm statistics"):
        net(train.as_float())
    assert net.calibrated_budgets() == []


def test_save_warns_of_budgets_trained_without_statistics(net: TaperedNet, train: ImageData, tmp_path: Path) -> None:
    net.train()
    with pytest.warns(RuntimeWarning, match="training drops"), net.at(0.5):
        net(train.as_float()).sum().backward()
    with pytest.warns(RuntimeWarning, match=r"trained at budgets 0\.5 and has no batch-norm statistics"):
        save(net, tmp_path / "net.safetensors")
    calibrate(net, [train.as_float()], [0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(net, tmp_path / "net.safetensors")
    assert load(tmp_path / "net.safetensors", network()).calibrated_budgets() == [0.5]  # type: ignore[attr-defined]


@pytest.mark.parametrize("images", [16, 17])
def test_a_last_batch_of_one_image_joins_the_one_before(images: int, train: ImageData, val: ImageData) -> None:
    history = fit(taper(network(), EXAMPLE), train.take(range(images)), val, FineTune(epochs=1), Settings(batch_size=8),
                  progress=False)  # fmt: skip
    assert history.epochs == [1]


def test_batches_too_small_for_batch_norm_are_refused_before_the_first_step(
    net: TaperedNet, plain: nn.Module, train: ImageData, val: ImageData
) -> None:
    before = [p.clone() for p in net.parameters()]
    for settings, data in ((Settings(batch_size=1), train), (Settings(), train.take([0]))):
        with pytest.raises(ConfigError, match="two images in a batch"):
            fit(net, data, val, FineTune(epochs=1), settings, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    with pytest.raises(ConfigError, match="2 processes: 4 at least"):
        _least_batch(net, 100, 3, 2)
    assert _least_batch(net, 100, 8, 2) == 4
    fit(plain, train.take(range(3)), val, FineTune(epochs=1), Settings(batch_size=1), progress=False)


def test_a_calibration_that_fails_leaves_what_was_measured(net: TaperedNet, train: ImageData) -> None:
    x = train.as_float()
    calibrate(net, [x], [0.5])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for batches, message in (
        ([x, x[:1]], "batch 2 has 1 image"), ([x, x[:, :, :3]], "takes batches of shape"),
        ([x, x.double()], "does not run"), ([x, None], "a batch is a tensor"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            calibrate(net, batches, [0.5, 0.7])  # type: ignore[list-item]
        assert net.calibrated_budgets() == [1.0, 0.5]
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
