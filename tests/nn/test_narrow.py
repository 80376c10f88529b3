"""Training a sub-network in the full network's memory."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tapernet.convert.taper import taper
from tapernet.errors import ConfigError
from tapernet.nn.narrow import narrowed
from tapernet.nn.net import TaperedNet
from tapernet.nn.prefix import PrefixModule


class Everything(nn.Module):
    """A residual sum, a depthwise convolution, a concatenation, norms and a slope for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.each, self.conv3 = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 8, 1)
        self.bn, self.gn, self.act = nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.PReLU(14)
        self.mix, self.fc = nn.Conv2d(14, 10, 1), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = self.each(self.conv2(x))
        x = self.gn(x + self.bn(self.conv3(y)))
        return self.fc(self.mix(self.act(torch.cat([x, y], 1))).mean((2, 3)))


X = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def net_of(profile: object = "linear") -> TaperedNet:
    torch.manual_seed(0)
    return taper(Everything(), X, profile).train()  # type: ignore[arg-type]


def step(net: TaperedNet, parameters: object, budgets: list[float], **options: float) -> None:
    optimizer = torch.optim.SGD(parameters, lr=0.1, **options)  # type: ignore[arg-type]
    for _ in range(2):
        optimizer.zero_grad()
        for budget in budgets:
            with net.at(budget):
                net(X).square().mean().backward()
        optimizer.step()


def used(net: TaperedNet, budget: float) -> dict[str, Tensor]:
    """A mask over each parameter of what a budget uses."""
    masks = {}
    with net.at(budget):
        for path, module in net.model.named_modules():
            for name, p in module.named_parameters(recurse=False):
                mask = masks[f"{path}.{name}"] = torch.zeros_like(p, dtype=torch.bool)
                mask[module.prefix().get(name, ()) if isinstance(module, PrefixModule) else ()] = True
    return masks


@pytest.mark.parametrize("budget", [0.3, 0.5, 1.0])
def test_a_step_is_the_full_nets_step_at_those_budgets(budget: float) -> None:
    net, plain = net_of(), net_of()
    before = copy.deepcopy(net.model.state_dict())
    budgets = [budget, 0.2]
    with narrowed(net, budget) as parameters:
        step(net, parameters, budgets, momentum=0.9)
    step(plain, plain.model.parameters(), budgets, momentum=0.9)
    moved, masks = False, used(net, budget)
    for name, p in net.model.named_parameters():
        torch.testing.assert_close(p, plain.model.get_parameter(name))
        assert torch.equal(p[~masks[name]], before[name][~masks[name]])
        moved |= not torch.equal(p, before[name])
    assert moved


def test_parameters_are_as_few_as_the_sub_networks() -> None:
    net = net_of()
    with net.at(0.5):
        expected = dict(zip(used(net, 0.5), net.active_parameters(), strict=True))
    with narrowed(net, 0.5) as parameters:
        for p, (name, part) in zip(parameters, expected.items(), strict=True):
            # What reads or follows the concatenation has scattered parts, and keeps that dimension whole.
            scattered = {"mix.weight": (5, 14, 1, 1), "act.weight": (14,)}
            assert p.shape == scattered.get(name, part.shape)


def test_the_blocks_parameters_are_the_nets_memory() -> None:
    net = net_of()
    with narrowed(net, 0.5) as parameters, torch.no_grad():
        for p in parameters:
            p.fill_(7.0)
    masks = used(net, 0.5)
    for name in ("conv1.weight", "each.weight", "bn.bias", "gn.weight", "fc.weight"):
        parameter = net.model.get_parameter(name)
        assert (parameter[masks[name]] == 7).all()
        assert not (parameter[~masks[name]] == 7).any()


def test_the_net_is_whole_again_after_an_error() -> None:
    net = net_of()
    before = dict(net.named_parameters())
    with pytest.raises(RuntimeError, match="inside"), narrowed(net, 0.5):
        raise RuntimeError("inside")
    assert all(p is before[n] for n, p in net.named_parameters())
    assert net.budget == 1.0


@pytest.mark.parametrize("budget", [0.5, 1.0])
def test_frozen_weights_stay_and_all_others_learn(budget: float) -> None:
    net = net_of()
    before = copy.deepcopy(net.model.state_dict())
    with narrowed(net, budget, frozen=0.3) as parameters:
        step(net, parameters, [budget])
    lower, upper = used(net, 0.3), used(net, budget)
    for name, p in net.model.named_parameters():
        changed = p.detach() != before[name]
        assert not changed[lower[name]].any(), name
        assert not changed[~upper[name]].any(), name
        if (upper[name] & ~lower[name]).any() and "bias" not in name:
            assert changed[upper[name] & ~lower[name]].any(), name


def test_nothing_stays_frozen_after_the_block() -> None:
    net = net_of()
    with narrowed(net, 1.0, frozen=0.5):
        pass
    net(X).square().mean().backward()
    assert net.model.fc.weight.grad.all()


def test_trainable_profiles_are_narrowed_and_not_among_the_weights() -> None:
    net = net_of("trainable")
    with narrowed(net, 0.5) as parameters:
        assert [len(g) for g in net.profiles()] == [4, 3, 5]
        assert not {id(p) for p in parameters} & {id(g) for g in net.profiles()}
        with torch.no_grad():
            net.profiles()[0].fill_(0.25)
    assert net.profiles()[0].tolist() == [0.25] * 4 + [1.0] * 4


def test_budgets_per_layer() -> None:
    net = net_of()
    with narrowed(net, {"conv2": 0.5}):
        assert net.model.conv1.weight.shape == (8, 2, 3, 3)
        assert net.model.conv2.weight.shape == (3, 8, 1, 1)


@pytest.mark.parametrize("enter", [lambda net: narrowed(net, 1.5), lambda net: narrowed(net, 0.5, frozen=0)])
def test_bad_budget(enter: Callable[[TaperedNet], object]) -> None:
    with pytest.raises(ConfigError, match="a budget lies in"):
        enter(net_of()).__enter__()  # type: ignore[attr-defined]
