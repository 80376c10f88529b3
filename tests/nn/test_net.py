"""The dial: uniform budgets, budgets per layer, named ones."""

from collections.abc import Mapping
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tapernet.convert.taper import taper
from tapernet.errors import ConfigError
from tapernet.nn.net import REST, Budget, TaperedNet, at


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.bn, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.fc((x + self.bn(self.conv3(self.conv2(x)))).mean((2, 3)))


X = torch.randn(4, 1, 3, 3)


def net_of(profile: object = "linear") -> TaperedNet:
    torch.manual_seed(0)
    return taper(Residual(), X, profile)  # type: ignore[arg-type]


def kept(net: TaperedNet, budget: Budget) -> tuple[int, ...]:
    with net.at(budget):
        return tuple(layer.outputs.kept for layer in (net.model.conv1, net.model.conv2, net.model.conv3, net.model.bn))


@pytest.mark.parametrize(
    ("budget", "counts"),
    [
        (1.0, (8, 6, 8, 8)),
        (0.5, (4, 3, 4, 4)),
        (0.01, (1, 1, 1, 1)),
        ({"conv1": 0.5}, (4, 6, 4, 4)),
        ({"conv3": 0.5}, (4, 6, 4, 4)),
        ({"conv3": 0.5, "conv1": 0.5, "conv2": 0.33}, (4, 2, 4, 4)),
        ({"conv2": 0.5, REST: 0.25}, (2, 3, 2, 2)),
        ({REST: 0.5}, (4, 3, 4, 4)),
        ({}, (8, 6, 8, 8)),
    ],
)
def test_kept_counts(budget: Budget, counts: tuple[int, ...]) -> None:
    assert kept(net_of(), budget) == counts


def test_a_named_budget_is_its_mapping() -> None:
    net = net_of()
    net.name_budget("fast", {"conv1": 0.5, "*": 0.25})
    assert kept(net, "fast") == kept(net, {"conv1": 0.5, "*": 0.25})
    with net.at("fast"):
        assert net.budget == "fast"
    assert net.options["budgets"] == {"fast": {"conv1": 0.5, "*": 0.25}}
    # What `options` holds is what `taper` takes.
    assert kept(taper(Residual(), X, **net.options), "fast") == kept(net, "fast")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100))
def test_at_goes_back_to_the_budget_before(a: int, b: int) -> None:
    net = net_of()
    net.budget = {"conv1": a / 100}
    before = kept(net, net.budget)
    with suppress(RuntimeError), net.at(b / 100):
        assert net.budget == b / 100
        raise RuntimeError("inside the block")
    assert net.budget == {"conv1": a / 100}
    assert net.model.conv1.outputs.kept == before[0]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "lies in"),
        (1.2, "lies in"),
        (0.123, "whole number of percent"),
        ("fats", r"unknown named budget 'fats' \(did you mean 'fast'\?\); valid: fast"),
        ({"conv9": 0.5}, r"unknown layer in a budget 'conv9'.*valid: \*, conv1, conv2, conv3"),
        ({"fc": 0.5}, "unknown layer in a budget 'fc'"),
        ({"conv1": 2.0}, "lies in"),
        ({"*": 0}, "lies in"),
        ({"conv1": 0.5, "conv3": 0.6}, "conv1, conv3 share their channels"),
    ],
)
def test_bad_budgets_leave_the_dial_alone(budget: Budget, message: str) -> None:
    net = net_of()
    net.name_budget("fast", {"conv1": 0.5})
    net.budget = 0.75
    with pytest.raises(ConfigError, match=message):
        net.budget = budget
    assert net.budget == 0.75
    assert net.model.conv1.outputs.kept == 6
    with pytest.raises(ConfigError, match=message):
        net.at(budget).__enter__()
    if isinstance(budget, Mapping):
        with pytest.raises(ConfigError, match=message):
            net.name_budget("bad", budget)
        assert list(net.budgets) == ["fast"]


@pytest.mark.parametrize("name", ["", "0.5", "*"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ConfigError, match="starts with a letter"):
        net_of().name_budget(name, {"conv1": 0.5})


def test_several_profiles_take_one_budget_for_all_layers() -> None:
    with pytest.raises(ConfigError, match="several profiles"):
        net_of({0.5: "linear", 1.0: "all-one"}).budget = {"conv1": 0.5}


def test_statistics_follow_the_kept_counts_and_not_the_wording() -> None:
    net = net_of()
    keys = []
    for budget in (0.5, {REST: 0.5}, {"conv1": 0.5, "conv2": 0.5}, {"conv1": 0.5}, {"conv3": 0.5, REST: 1.0}):
        with net.at(budget):
            keys.append(net.model.bn.key)
    assert keys[0] == keys[1] == keys[2] == "50"
    assert keys[3] == keys[4] != "50"


def test_active_parameters_are_those_of_the_smaller_net() -> None:
    net = net_of("trainable")
    with net.at({"conv1": 0.5, "conv2": 0.5}):
        found = [tuple(p.shape) for p in net.active_parameters()]
    expected = [(4, 1, 1, 1), (4,), (3, 4, 1, 1), (3,), (4, 3, 1, 1), (4,), (4,), (4,), (3, 4), (3,)]
    assert sorted(found) == sorted(expected)


def test_modules_of_idle_ranges_are_not_active() -> None:
    net = net_of({0.5: "linear", 1.0: "all-one"})
    with net.at(0.3):
        active = set(map(id, net.active_modules()))
    assert id(net.model.conv1.versions[0]) in active
    assert id(net.model.conv1.versions[1]) not in active


def test_profiles_are_the_trainable_ones_and_are_put_in_order() -> None:
    assert net_of().profiles() == []
    net = net_of("trainable")
    assert [len(p) for p in net.profiles()] == [8, 6]
    with torch.no_grad():
        net.profiles()[1].copy_(torch.tensor([1.0, 0.5, 0.7, 0.2, 0.9, 0.1]))
    net.order_profiles()
    assert net.profiles()[1].tolist() == pytest.approx([1.0, 0.5, 0.5, 0.2, 0.2, 0.1])


def test_a_net_without_a_dial_runs_whole() -> None:
    plain = nn.Linear(2, 2)
    with at(plain, 1.0):
        pass
    with pytest.raises(ConfigError, match="Linear has no dial"):
        at(plain, 0.5)
    net = net_of()
    with at(net, 0.5):
        assert net.budget == 0.5


@pytest.mark.parametrize("bad", [nn.ReLU(), None, torch.tensor(0.5), [0.5], 0, 2, float("nan"), True, {"fc": "x"}])
def test_what_is_no_budget_is_refused_and_the_old_one_stays(bad: object) -> None:
    net = taper(nn.Sequential(nn.Linear(4, 20), nn.Linear(20, 3)), torch.zeros(1, 4))
    net.budget = 0.3
    with pytest.raises(ConfigError, match="budget"):
        net.budget = bad  # type: ignore[assignment]
    assert net.budget == 0.3


@pytest.mark.parametrize("order", ["cumulative-minimum", "isotonic"])
def test_a_trainable_profile_has_a_floor(order: str) -> None:
    net = taper(nn.Sequential(nn.Linear(4, 20), nn.Linear(20, 3)), torch.zeros(1, 4), profile="trainable")
    for gamma in net.profiles():
        with torch.no_grad():
            gamma[gamma.numel() // 2 :] = -1.0
        net.order_profiles(order)
        assert float(gamma.min()) == pytest.approx(0.1)
        assert bool((gamma.diff() <= 0).all())
