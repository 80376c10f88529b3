"""Batch-norm statistics for each budget."""

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import NETS
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from tapernet.convert.calibrate import calibrate
from tapernet.convert.extract import extract
from tapernet.convert.taper import taper
from tapernet.errors import ConfigError
from tapernet.nn.net import TaperedNet
from tapernet.saving import load, save
from tapernet.zoo import create

SHAPE = (3, 6, 6)


def net_of(profile: str = "linear", name: str = "dense") -> TaperedNet:
    torch.manual_seed(0)
    return taper(NETS[name].make(6, 4), torch.zeros(2, *SHAPE), profile).eval()


def batches(n: int = 3, size: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(size, *SHAPE, generator=generator) * (i + 1) for i in range(n)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=3, unique=True), st.integers(1, 4), st.integers(2, 6))
def test_statistics_are_those_of_the_smaller_net(percents: list[int], n: int, size: int) -> None:
    """torch's own `update_bn` on the extracted network, which had other statistics before."""
    net, data = net_of(), batches(n, size)
    budgets = [p / 100 for p in percents]
    calibrate(net, batches(2), budgets)
    smaller = [extract(net, b) for b in budgets]
    calibrate(net, data, budgets)
    for budget, small in zip(budgets, smaller, strict=True):
        update_bn(data, small)
        measured = extract(net, budget)
        torch.testing.assert_close(measured.bn.running_mean, small.bn.running_mean)
        torch.testing.assert_close(measured.bn.running_var, small.bn.running_var)


def test_a_loop_agrees_on_the_first_batch_norm() -> None:
    net, data = net_of(name="batch norm"), batches()
    calibrate(net, data, [0.5])
    outputs = [net.model[0].forward(x)[:, :3].transpose(0, 1).flatten(1) for x in data]
    mean = sum(y.mean(1) for y in outputs) / len(data)
    variance = sum(y.var(1, unbiased=True) for y in outputs) / len(data)
    torch.testing.assert_close(net.model[1].running_mean_50, mean)
    torch.testing.assert_close(net.model[1].running_var_50, variance)


@pytest.mark.parametrize("budget", [1.0, 0.5, {"conv1": 0.5}])
def test_a_budget_without_statistics_is_an_error_in_eval_mode(budget: float | dict[str, float]) -> None:
    net = net_of()
    with net.at(budget), pytest.raises(ConfigError, match=r"no batch-norm statistics for budget .*call calibrate"):
        net(torch.zeros(2, *SHAPE))


def test_the_models_statistics_hold_at_full_budget_without_a_profile() -> None:
    net = net_of("all-one")
    net(torch.zeros(2, *SHAPE))
    with net.at(0.99), pytest.raises(ConfigError, match="calibrate"):
        net(torch.zeros(2, *SHAPE))


def test_training_drops_statistics_and_measures_none() -> None:
    net = net_of()
    calibrate(net, batches(), [0.5, 1.0])
    net.train()
    with net.at(0.5), pytest.warns(RuntimeWarning, match="training drops"):
        net(batches(1)[0])
    net.eval()
    for budget in (0.5, 1.0):
        with net.at(budget), pytest.raises(ConfigError, match="calibrate"):
            net(torch.zeros(2, *SHAPE))
    assert not list(net.model.bn.buffers())


def test_a_batch_norm_left_in_eval_mode_keeps_its_statistics_in_training() -> None:
    net = net_of()
    calibrate(net, batches(), [0.5])
    net.train()
    net.model.bn.eval()
    with net.at(0.5):
        net(batches(1)[0])
    assert net.model.bn.keys() == ["50"]


def test_modes_budget_gradients_and_weights_are_left_alone() -> None:
    net = net_of().train()
    net.model.conv2.eval()
    net.budget = 0.7
    modes, weights = [m.training for m in net.modules()], [p.clone() for p in net.parameters()]
    calibrate(net, batches(), [0.5])
    assert [m.training for m in net.modules()] == modes
    assert net.budget == 0.7
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(net.parameters(), weights, strict=True))


def test_dropout_is_off() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 2))
    net = taper(model, torch.zeros(2, 4)).train()
    x = torch.randn(50, 4)
    calibrate(net, [x], [1.0])
    torch.testing.assert_close(net.model[2].running_mean_100, net.model[0](x).mean(0).detach())


def test_batches_may_carry_labels_and_are_drawn_once() -> None:
    drawn = 0

    def source() -> object:
        nonlocal drawn
        for x in batches():
            drawn += 1
            yield x, torch.zeros(len(x))

    net, other = net_of(), net_of()
    calibrate(net, source(), [0.5, 1.0])  # type: ignore[arg-type]
    calibrate(other, batches(), [1.0, 0.5])
    assert drawn == 3
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())


def test_statistics_of_other_budgets_stay() -> None:
    net = net_of()
    calibrate(net, batches(), [0.5])
    before = net.model.bn.running_mean_50.clone()
    calibrate(net, batches(2), [0.25])
    assert sorted(net.model.bn.keys()) == ["25", "50"]
    assert torch.equal(net.model.bn.running_mean_50, before)


def test_statistics_are_saved_and_loaded_with_the_net() -> None:
    net, fresh, x = net_of(), net_of(), torch.randn(3, *SHAPE)
    net.name_budget("odd", {"conv1": 0.5, "*": 0.75})
    calibrate(net, batches(), [0.5, "odd"])
    calibrate(fresh, batches(2), [0.3])
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for budget in (0.5, {"conv1": 0.5, "*": 0.75}):
        with net.at(budget), fresh.at(budget):
            assert torch.equal(net(x), fresh(x))
    with fresh.at(0.3), pytest.raises(ConfigError, match="calibrate"):
        fresh(x)


def test_named_budgets_and_statistics_are_in_the_nets_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = taper(create("resnet", depth=8, width=0.25), torch.zeros(2, 3, 8, 8)).eval(), torch.randn(4, 3, 8, 8)
    net.name_budget("odd", {"stage1.0.conv1": 0.5, "*": 0.75})
    calibrate(net, [x], [0.5, "odd"])
    save(net, tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors")
    for budget in (0.5, "odd"):
        with net.at(budget), loaded.at(budget):
            assert torch.equal(net(x), loaded(x))
    with loaded.at(0.75), pytest.raises(ConfigError, match="calibrate"):
        loaded(x)


def test_a_net_without_batch_norm_draws_no_batch() -> None:
    def none() -> object:
        raise AssertionError("drawn")
        yield

    net = net_of(name="chain")
    calibrate(net, none(), [0.5])  # type: ignore[arg-type]


def test_batch_norm_that_tracks_nothing_needs_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2)).eval()
    net, x = taper(model, torch.zeros(2, 4), "all-one"), torch.randn(5, 4)
    assert torch.equal(net(x), model(x))
    with net.at(0.5):
        torch.testing.assert_close(extract(net, 0.5)(x), net(x))


def test_batch_norm_without_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)).eval()
    net, x = taper(model, torch.zeros(2, 4)), torch.randn(5, 4)
    calibrate(net, [x], [0.5])
    with net.at(0.5):
        torch.testing.assert_close(extract(net, 0.5)(x), net(x))


def test_no_batch() -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        calibrate(net_of(), [], [0.5])


def test_bad_budget_before_any_batch() -> None:
    with pytest.raises(ConfigError, match="a budget lies in"):
        calibrate(net_of(), [], [0.5, 1.5])


def test_a_batch_that_does_not_fit_leaves_the_net_usable() -> None:
    net = net_of()
    with pytest.raises(ConfigError, match="takes batches of shape"):
        calibrate(net, [torch.zeros(2, 1, 6, 6)], [0.5])
    calibrate(net, batches(), [0.5])
    assert not net.model.bn.calibrating
