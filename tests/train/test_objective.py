import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tapernet import Check, estimating_macs, mac_penalty, taper, terminate, zoo
from tapernet.errors import ConfigError
from tapernet.nn.terminating import terminating_layers
from tapernet.train.objective import Objective, ObjectiveLoss, Penalty, Sandwich, Step

FULL = {1.0: 1.0}


def test_adding_a_task_is_equation_3() -> None:
    objective = Objective({1.0: 1.0}).add(0.7, 0.5).add(0.4, 0.5).add(0.1, 0.5)
    assert objective.weights == {1.0: 0.125, 0.7: 0.125, 0.4: 0.25, 0.1: 0.5}
    assert Objective({1.0: 1.0}).add(0.5, 0.2).weights == {1.0: 0.8, 0.5: 0.2}


def test_adding_a_task_again_adds_to_its_weight() -> None:
    objective = Objective({1.0: 0.5, 0.5: 0.5}).add(0.5, 0.4)
    assert objective.weights == pytest.approx({1.0: 0.3, 0.5: 0.7})


def test_the_loss_is_the_weighted_sum_over_the_sub_networks(plain: nn.Module) -> None:
    net = taper(plain, torch.zeros(1, 1, 4, 4))
    x, y = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    objective = Objective({1.0: 0.2, 0.5: 0.3, 0.1: 0.5})
    loss = ObjectiveLoss(net, objective)(x, y, Step(objective.draw(random.Random(0)), 5.0))
    expected = torch.zeros(())
    for budget, weight in objective.weights.items():
        with net.at(budget):
            log_p = net(x).log_softmax(1)
        expected = expected - weight * torch.stack([log_p[i, c] for i, c in enumerate(y)]).mean()
    torch.testing.assert_close(loss, expected)


def test_distillation_teaches_the_smaller_by_the_largest_and_not_the_other_way(plain: nn.Module) -> None:
    net = taper(plain, torch.zeros(1, 1, 4, 4), keep=["fc2"])
    x, y = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    with net.at(1.0):
        teacher = net(x).softmax(1).detach()
    with net.at(0.5):
        student = net(x).log_softmax(1)
    loss = ObjectiveLoss(net, Objective({1.0: 0.5, 0.5: 0.5}, distill=True))(x, y, Step([(1.0, 0.0), (0.5, 1.0)], 5.0))
    torch.testing.assert_close(loss, -(teacher * student).sum(1).mean())
    loss.backward()
    fc1 = net.model.fc1.weight
    assert isinstance(fc1, nn.Parameter)
    assert fc1.grad is not None
    assert fc1.grad[:10].abs().sum() > 0
    assert fc1.grad[10:].abs().sum() == 0  # nothing flows into the teacher


def test_a_teacher_gives_a_share_of_the_labels(plain: nn.Module) -> None:
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3))  # its dropout is off, as in eval mode
    x, y = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    loss = ObjectiveLoss(plain, Objective(FULL, taught=0.3), teacher)(x, y, Step([(1.0, 1.0)], 5.0))
    log_p, given = plain(x).log_softmax(1), teacher[2](x.flatten(1)).softmax(1)
    by_labels = -torch.stack([log_p[i, c] for i, c in enumerate(y)]).mean()
    torch.testing.assert_close(loss, 0.7 * by_labels - 0.3 * (given * log_p).sum(1).mean())
    loss.backward()
    assert teacher[2].weight.grad is None
    assert teacher.training


def test_a_warm_teacher_gives_the_divergence_at_its_temperature(plain: nn.Module) -> None:
    x, y = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    given = 5 * torch.randn(5, 3)
    objective = Objective(FULL, taught=1.0, taught_temperature=4.0)
    loss = ObjectiveLoss(plain, objective)(x, y, Step([(1.0, 1.0)], 5.0), given)
    loss.backward()
    gradient = plain.get_parameter("fc2.bias").grad
    plain.zero_grad()
    student, teacher = (plain(x) / 4).log_softmax(1), (given / 4).log_softmax(1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    (16 * divergence).backward()
    torch.testing.assert_close(gradient, plain.get_parameter("fc2.bias").grad)
    entropy = -(teacher.exp() * teacher).sum(1).mean()
    torch.testing.assert_close(loss, 16 * (divergence + entropy))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_teacher_s_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(ConfigError, match="taught_temperature is a finite number above 0"):
        Objective({1.0: 1.0}, taught_temperature=temperature)


@pytest.mark.parametrize("taught", [-0.1, 1.1, float("nan")])
def test_a_share_to_be_taught_is_a_share(taught: float) -> None:
    with pytest.raises(ConfigError, match="taught is a finite number from 0 to 1"):
        Objective({1.0: 1.0}, taught=taught)


def test_the_sandwich_has_largest_and_smallest_and_draws_the_rest() -> None:
    budgets = (1.0, 0.8, 0.6, 0.4, 0.2)
    objective = Sandwich(dict.fromkeys(budgets, 1.0), extra=2)
    rng, between = random.Random(0), set()
    for _ in range(50):
        drawn = [b for b, _ in objective.draw(rng)]
        assert drawn == sorted(drawn, reverse=True)
        assert (drawn[0], drawn[-1], len(set(drawn))) == (1.0, 0.2, 4)
        between |= set(drawn[1:-1])
    assert between == {0.8, 0.6, 0.4}


@pytest.mark.parametrize("extra", [-1, 2])
def test_a_sandwich_of_too_many_is_refused(extra: int) -> None:
    with pytest.raises(ConfigError, match="draws 0 to 1"):
        Sandwich({1.0: 1.0, 0.5: 1.0, 0.2: 1.0}, extra=extra)


def test_a_network_without_a_dial_runs_at_the_full_budget_alone(plain: nn.Module) -> None:
    loss = ObjectiveLoss(plain, Objective(FULL))
    x, y = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(loss(x, y, Step([(1.0, 1.0)], 4.0)), F.cross_entropy(plain(x), y))
    with pytest.raises(ConfigError, match="has no dial"):
        loss(x, y, Step([(0.5, 1.0)], 4.0))


def terminated() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = terminate(zoo.create("c10net", input_shape=(1, 8, 8), classes=3), torch.zeros(1, 1, 8, 8))
    for layer in terminating_layers(net).values():
        layer.set_checks([Check(share=0.2)])
    return net, torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])


def test_the_mac_penalty_is_added_to_the_loss() -> None:
    net, x, y = terminated()
    loss = ObjectiveLoss(net, Objective(FULL, penalty=Penalty(0.3, 0.2)))(x, y, Step([(1.0, 2.0)], 5.0))
    with estimating_macs(net, temperature=0.2):
        task = F.cross_entropy(net(x), y)
        torch.testing.assert_close(loss, 2 * (task + 0.3 * mac_penalty(net)))


def test_the_mac_penalty_may_weigh_layers() -> None:
    net, x, y = terminated()
    weights = {"conv2": 1.0, "conv3": 3.0}
    loss = ObjectiveLoss(net, Objective(FULL, penalty=Penalty(0.3, weights=weights)))(x, y, Step([(1.0, 1.0)], 5.0))
    with estimating_macs(net):
        task = F.cross_entropy(net(x), y)
        torch.testing.assert_close(loss, task + 0.3 * mac_penalty(net, weights))


def test_the_mac_penalty_counts_every_budget() -> None:
    _, x, y = terminated()
    taped = terminate(taper(zoo.create("c10net", input_shape=(1, 8, 8), classes=3), x), x)
    for layer in terminating_layers(taped).values():
        layer.set_checks([Check(share=0.2)])
    terms = [(1.0, 0.7), (0.5, 0.3)]
    loss = ObjectiveLoss(taped, Objective(dict(terms), penalty=Penalty(0.3)))(x, y, Step(terms, 5.0))
    expected = torch.zeros(())
    with estimating_macs(taped):
        for budget, weight in terms:
            with taped.at(budget):  # type: ignore[operator]
                task = F.cross_entropy(taped(x), y)
                expected = expected + weight * (task + 0.3 * mac_penalty(taped))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    "bad",
    [
        {"factor": -0.1}, {"factor": float("nan")}, {"temperature": 0.0}, {"weights": {}}, {"weights": {"conv1": 0.0}},
        {"weights": {"conv1": 1.0, "conv2": -1.0}}, {"weights": {"conv1": float("nan")}},
        {"weights": {"conv1": float("inf")}},
    ],
    ids=str,
)  # fmt: skip
def test_a_penalty_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="MAC penalty"):
        Penalty(**bad)
