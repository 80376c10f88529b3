"""What every registered network must do."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tapernet.convert.calibrate import calibrate
from tapernet.convert.extract import extract
from tapernet.convert.taper import taper
from tapernet.errors import ConfigError
from tapernet.zoo import NETWORKS, create

# Arguments that make a network small enough for a test, where it has any.
SMALL: dict[str, dict[str, Any]] = {
    "vgg16": {"width": 0.125},
    "resnet": {"depth": 14},
    "mobilenetv2": {"width": 0.25},
}
BUDGETS = (1.0, 0.5, 0.01)
SHAPE = (3, 16, 16)


def make(name: str, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return create(name, input_shape=SHAPE, classes=7, **SMALL.get(name, {}), **more)


def flops(model: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counted:
        model(x)
    return counted.get_total_flops()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_full_budget_without_profile_is_the_plain_net(name: str) -> None:
    model, x = make(name).eval(), torch.randn(2, *SHAPE)
    net = taper(model, x[:1], "all-one")
    assert torch.equal(net(x), model(x))
    assert net(x).shape == (2, 7)


@pytest.mark.parametrize("name", list(NETWORKS))
@torch.no_grad()
def test_budgets_compute_less_and_extracted_nets_are_equal(name: str) -> None:
    model, x = make(name).eval(), torch.randn(4, *SHAPE)
    net = taper(model, x[:1], "linear")
    calibrate(net, [x], BUDGETS)
    work, size = [], []
    for budget in BUDGETS:
        small = extract(net, budget)
        with net.at(budget):
            torch.testing.assert_close(small(x), net(x), rtol=1e-5, atol=1e-5)
            work.append(flops(net, x))
            assert flops(small, x) == work[-1]
            assert sum(p.numel() for p in net.active_parameters()) == sum(p.numel() for p in small.parameters())
        size.append(sum(p.numel() for p in small.parameters()))
    assert work[0] == flops(model, x)
    assert size[0] == sum(p.numel() for p in model.parameters())
    assert work == sorted(work, reverse=True)
    assert size == sorted(size, reverse=True)
    assert work[1] < 0.6 * work[0]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_weight_learns(name: str) -> None:
    net = taper(make(name), torch.zeros(1, *SHAPE)).train()
    for p in net.parameters():
        if p.ndim > 1:
            # Alive whatever the initial weights: what is tested is that the graph reaches them.
            torch.nn.init.xavier_normal_(p, gain=1.5)
    net(torch.randn(4, *SHAPE)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", list(NETWORKS))
def test_it_can_be_built_again_from_its_entry(name: str) -> None:
    model = make(name)
    entry = model.zoo_entry
    again = create(entry["name"], **entry["arguments"])
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_unknown_argument(name: str) -> None:
    with pytest.raises(ConfigError, match=f"network '{name}'.*dephts"):
        create(name, dephts=3)


def test_unknown_network() -> None:
    with pytest.raises(ConfigError, match=r"unknown network 'vgg61' \(did you mean 'vgg16'\?\)"):
        create("vgg61")
