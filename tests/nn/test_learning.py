"""Thresholds that learn: their gradient against one written anew, and what is left of them afterwards."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet import zoo
from tapernet.convert.terminate import terminate
from tapernet.errors import ConfigError
from tapernet.nn.check import Check
from tapernet.nn.learning import learning_thresholds
from tapernet.nn.penalty import estimating_macs, mac_penalty
from tapernet.nn.terminating import TerminatingConv2d, terminating_layers

SHAPE = (3, 12, 12)
END = 76


def network(gradient: str = "gated", **options: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = terminate(zoo.create("c10net", input_shape=SHAPE), torch.zeros(1, *SHAPE), gradient=gradient, **options)
    net.conv1.set_checks([Check(position=[END, *range(5, 36)], threshold=-0.05), Check(position=[END] + [40] * 31)])
    net.conv2.set_checks([Check(share=0.1, threshold=[0.01 * f for f in range(32)])])
    return net, torch.randn(4, *SHAPE)


def moved(layer: TerminatingConv2d) -> Tensor:
    assert layer.threshold_moves is not None
    return layer.threshold_moves


@pytest.mark.parametrize("bias_first", [False, True])
def test_their_gradient_is_that_of_a_soft_gate(bias_first: bool) -> None:
    """One layer with two checks in single precision, against autograd through max(u, 0) (1 - s_1) (1 - s_2)."""
    net, x = network(bias_first=bias_first)
    layer, scale = net.conv1, 3.0
    weights = torch.linspace(-1, 2, 4 * 32 * 144).view(4, 32, 12, 12)
    with learning_thresholds(net, scale):
        with torch.no_grad():
            moved(layer).uniform_(-0.02, 0.02)
        (found,) = torch.autograd.grad((weights * layer(x)).sum(), [moved(layer)])
        moves = moved(layer).detach().clone().requires_grad_()
    full = F.conv2d(x, layer.weight, layer.bias, padding=2).detach().relu()
    order = layer.weight.detach().abs().flatten(1).argsort(1, descending=True)
    passing = torch.ones_like(full)
    for i, placed in enumerate((-0.05, 0.0)):
        positions = [END, *range(5, 36)] if i == 0 else [END] + [40] * 31
        early = torch.zeros_like(layer.weight).flatten(1)
        for f, position in enumerate(positions):
            early[f, order[f, :position]] = 1.0
        u = F.conv2d(x, layer.weight * early.view_as(layer.weight), layer.bias if bias_first else None, padding=2)
        u = u.detach()
        stopping = torch.sigmoid(((placed + scale * moves[i])[:, None, None] - u) / (0.1 * u.std()))
        stopping = stopping * torch.tensor([p < END for p in positions])[:, None, None]
        passing = passing * (1 - stopping)
    (expected,) = torch.autograd.grad((weights * full * passing).sum(), [moves])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert expected[:, 1:].abs().min() > 1e-2
    assert not expected[:, 0].any()


def test_inside_they_act_and_afterwards_they_are_the_checks() -> None:
    net, x = network()
    keys, placed = list(net.state_dict()), {path: layer.checks for path, layer in terminating_layers(net).items()}
    with learning_thresholds(net, 2.0):
        assert {name for name, _ in net.named_parameters() if "threshold" in name} == {
            "conv1.threshold_moves", "conv2.threshold_moves",
        }  # fmt: skip
        before = net.conv2(torch.ones(1, 32, 6, 6))
        with torch.no_grad():
            moved(net.conv1)[:, 1:] = 0.1
            moved(net.conv2)[:] = torch.linspace(-0.5, 0.5, 32)
        inside, layer_inside = net.eval()(x), net.conv2(torch.ones(1, 32, 6, 6))
    assert list(net.state_dict()) == keys
    assert torch.equal(net(x), inside)
    assert not torch.equal(before, layer_inside)
    first, second = net.conv1.checks
    assert first.thresholds(32) == pytest.approx([-0.05] + [0.15] * 31)
    assert second.thresholds(32) == pytest.approx([0.0] + [0.2] * 31)
    steps = torch.linspace(-0.5, 0.5, 32).tolist()
    assert net.conv2.checks[0].thresholds(32) == pytest.approx([0.01 * f + 2 * s for f, s in enumerate(steps)])
    for path, checks in placed.items():
        now = terminating_layers(net)[path].checks
        assert [check.position for check in now] == [check.position for check in checks]
        assert [check.share for check in now] == [check.share for check in checks]


def test_a_penalty_raises_them_and_a_filter_that_never_stops_stays() -> None:
    net, x = network()
    with learning_thresholds(net), estimating_macs(net):
        net(x)
        mac_penalty(net).backward()
        grad = moved(net.conv1).grad
        assert grad is not None
        assert (grad[:, 1:] < 0).all()
        assert not grad[:, 0].any()


def test_an_error_inside_leaves_the_checks_where_they_were_moved() -> None:
    net, _ = network()
    with pytest.raises(RuntimeError, match="torn"), learning_thresholds(net):  # noqa: PT012
        with torch.no_grad():
            moved(net.conv2)[:] = 1.0
        raise RuntimeError("torn")
    assert net.conv2.threshold_moves is None
    assert min(net.conv2.checks[0].thresholds(32)) == 1.0


def test_a_threshold_that_is_no_number_goes_back_to_where_it_was_placed() -> None:
    net, _ = network()
    with learning_thresholds(net), torch.no_grad():
        moved(net.conv2)[0, 0] = torch.nan
        moved(net.conv2)[0, 1] = 1.0
    assert net.conv2.checks[0].thresholds(32)[:2] == pytest.approx([0.0, 1.01])


def rounded() -> nn.Module:
    net, _ = network()
    net.conv2.set_checks([Check(bits=8)])
    return net


def without_checks() -> nn.Module:
    return terminate(zoo.create("c10net", input_shape=SHAPE), torch.zeros(1, *SHAPE), gradient="gated")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_checks, "Sequential has no checks"),
        (lambda: zoo.create("c10net", input_shape=SHAPE), "Sequential has no checks"),
        (lambda: network("exact")[0], "conv1: thresholds learn with the gradient 'gated', not 'exact'"),
        (lambda: network("straight-through")[0], "conv1: thresholds learn with the gradient 'gated'"),
        (rounded, "conv2: the threshold of a rounded sum does not learn"),
    ],
)
def test_networks_whose_thresholds_cannot_learn(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message), learning_thresholds(make()):
        pass


def test_they_cannot_learn_twice_and_go_on_after_the_refusal() -> None:
    net, _ = network()
    with learning_thresholds(net):
        with pytest.raises(ConfigError, match="conv1: its thresholds learn already"), learning_thresholds(net):
            pass
        assert net.conv1.threshold_moves is not None


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_the_scale_is_positive(scale: float) -> None:
    with pytest.raises(ConfigError, match="scale of thresholds"), learning_thresholds(network()[0], scale):
        pass


def test_a_copy_has_the_thresholds_of_the_moment_and_learns_none() -> None:
    net, x = network()
    with learning_thresholds(net, 2.0):
        with torch.no_grad():
            moved(net.conv1).uniform_(-0.02, 0.02)
        twin = copy.deepcopy(net).eval()
        assert twin.conv1.threshold_moves is None
        assert torch.equal(twin(x), net.eval()(x))
    assert twin.conv1.checks == net.conv1.checks
    assert set(twin.state_dict()) == set(net.state_dict())
