"""Sharing the first layer between budgets changes its cost and nothing else."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet import taper, zoo
from tapernet.nn.net import TaperedNet
from tapernet.nn.once import computing_once, first_layers

BUDGETS = (1.0, 0.7, 0.3, 0.1)


def mlp() -> TaperedNet:
    return taper(zoo.create("mlp", input_shape=(1, 6, 6), hidden=[12, 9], classes=4), torch.zeros(1, 1, 6, 6))


def cnn() -> TaperedNet:
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten()]
    return taper(nn.Sequential(*layers, nn.Linear(24, 4)), torch.zeros(1, 1, 6, 6), profile="harmonic")


def step(net: TaperedNet, x: Tensor, y: Tensor, shared: bool) -> list[Tensor]:
    """Scores at every budget, then every gradient of their summed losses."""
    net.zero_grad()
    with computing_once(first_layers(net) if shared else ()):
        scores = []
        for budget in BUDGETS:
            with net.at(budget):
                scores.append(net(x))
    torch.stack([F.cross_entropy(s, y) for s in scores]).sum().backward()
    return [*scores, *(p.grad for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("make", [mlp, cnn])
def test_scores_and_gradients_are_those_of_separate_calls(make: Callable[[], TaperedNet]) -> None:
    torch.manual_seed(0)
    net, x, y = make().double(), torch.randn(5, 1, 6, 6).double(), torch.randint(4, (5,))
    for apart, shared in zip(step(net, x, y, shared=False), step(net, x, y, shared=True), strict=True):
        torch.testing.assert_close(shared, apart)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_the_first_layer_runs_once(make: Callable[[], TaperedNet], monkeypatch: pytest.MonkeyPatch) -> None:
    net, calls = make(), []
    (layer,) = first_layers(net)
    plain = type(layer).forward
    monkeypatch.setattr(type(layer), "forward", lambda self, x: (calls.append(self), plain(self, x))[1])
    step(net, torch.randn(5, 1, 6, 6), torch.randint(4, (5,)), shared=True)
    assert calls.count(layer) == 1
    net(torch.randn(5, 1, 6, 6))
    net(torch.randn(5, 1, 6, 6))
    assert calls.count(layer) == 3  # outside the block each call computes


def test_another_batch_or_a_changed_one_is_computed_anew() -> None:
    net, x = mlp(), torch.randn(5, 1, 6, 6)
    with torch.no_grad(), computing_once(first_layers(net)):
        net(x)
        other = torch.randn(5, 1, 6, 6)
        torch.testing.assert_close(net(other), net.model(other))
        x.copy_(other)
        torch.testing.assert_close(net(x), net(other))
        with net.at(0.3):
            small = net(x)
        torch.testing.assert_close(net(x), net(other))  # up the dial again
    with net.at(0.3):
        torch.testing.assert_close(small, net(x).detach())


def test_the_block_leaves_nothing_behind_after_an_error() -> None:
    net = mlp()
    with pytest.raises(RuntimeError, match="stop"), computing_once(first_layers(net)):
        raise RuntimeError("stop")
    assert all("forward" not in m.__dict__ for m in net.modules())


def test_a_network_without_a_dial_has_no_such_layers() -> None:
    assert first_layers(nn.Sequential(nn.Linear(3, 2))) == []
