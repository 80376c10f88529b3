"""What holds for every recipe, and what each is told to do by its paper."""

import pytest
import torch
from torch import nn

from tapernet import FineTune, TaperedNet, taper
from tapernet.errors import ConfigError
from tapernet.train.objective import Objective
from tapernet.train.recipes import IDP, MPIDP, RTESLA, TESLA, Recipe, Slimmable, Stage

RECIPES = Recipe.__subclasses__()


def stages(recipe: Recipe, net: nn.Module, seed: int = 0, epochs: int = 3) -> list[Stage]:
    """The stages if each took `epochs`, or its limit."""
    generator = recipe.stages(net, seed)
    found = [next(generator)]
    while True:
        try:
            found.append(generator.send(min(epochs, found[-1].max_epochs)))
        except StopIteration:
            return found


@pytest.fixture
def net(plain: nn.Module) -> TaperedNet:
    return taper(plain, torch.zeros(1, 1, 4, 4), profile={0.5: "linear", 1.0: "linear"})


@pytest.mark.parametrize("kind", RECIPES)
def test_stages_can_be_replayed(kind: type[Recipe], net: TaperedNet) -> None:
    first, second = stages(kind(), net, seed=3), stages(kind(), net, seed=3)
    assert first == second
    assert first
    for stage in first:
        assert min(stage.objective.weights.values()) > 0
        assert stage.task


def test_idp_trains_the_full_budget_alone(net: TaperedNet) -> None:
    assert [s.objective.weights for s in stages(IDP(), net)] == [{1.0: 1.0}]


def test_tesla_ends_with_the_weights_of_table_1(net: TaperedNet) -> None:
    found = stages(TESLA(budgets=(0.1, 0.4, 1.0, 0.7)), net)
    assert [s.objective.weights for s in found] == [
        {1.0: 1.0},
        {1.0: 0.5, 0.7: 0.5},
        {1.0: 0.25, 0.7: 0.25, 0.4: 0.5},
        {1.0: 0.125, 0.7: 0.125, 0.4: 0.25, 0.1: 0.5},
    ]
    assert all(s.patience == 4 for s in found)


@pytest.mark.parametrize("epochs", [1, 3, 7, 1000])
def test_r_tesla_uses_up_its_epochs_and_no_more(net: TaperedNet, epochs: int) -> None:
    found = stages(RTESLA(max_epochs=20), net, epochs=epochs)
    assert sum(min(epochs, s.max_epochs) for s in found) == 20
    assert found[0].objective.weights == {1.0: 1.0}


def test_r_tesla_draws_another_order_for_another_seed(net: TaperedNet) -> None:
    orders = {tuple(tuple(s.objective.weights.items()) for s in stages(RTESLA(), net, seed)) for seed in range(5)}
    assert len(orders) == 5


@pytest.mark.parametrize("seed", range(5))
def test_r_tesla_leaves_no_task_out_of_a_round(net: TaperedNet, seed: int) -> None:
    found = stages(RTESLA(max_epochs=4), net, seed, epochs=1)
    assert set(found[-1].objective.weights) == {1.0, 0.7, 0.4, 0.1}


def test_r_tesla_ends_tasks_that_take_too_long(net: TaperedNet) -> None:
    found = stages(RTESLA(task_epochs=3, max_epochs=10), net, epochs=1000)
    assert [s.max_epochs for s in found] == [3, 3, 3, 1]


def test_r_tesla_follows_the_users_distribution(net: TaperedNet) -> None:
    recipe = RTESLA(budgets=(1.0, 0.5, 0.1), probabilities=(0.0, 1.0, 0.0), max_epochs=30)
    assert {b for s in stages(recipe, net) for b in s.objective.weights} == {1.0, 0.5}


def test_mp_idp_trains_ranges_upward_and_freezes_what_is_below(net: TaperedNet) -> None:
    found = stages(MPIDP(), net)
    assert [(s.objective.weights, s.frozen) for s in found] == [({0.5: 1.0}, None), ({1.0: 1.0}, 0.5)]


def test_mp_idp_needs_several_profiles(plain: nn.Module) -> None:
    with pytest.raises(ConfigError, match="several profiles"):
        stages(MPIDP(), taper(plain, torch.zeros(1, 1, 4, 4)))


def test_fine_tuning_shares_the_weight_or_takes_it(net: TaperedNet) -> None:
    assert stages(FineTune(budgets=(1.0, 0.5)), net)[0].objective.weights == {1.0: 0.5, 0.5: 0.5}
    assert stages(FineTune((1.0, 0.5), (3.0, 1.0)), net)[0].objective.weights == {1.0: 3.0, 0.5: 1.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TESLA(budgets=()), "at least one budget"),
        (lambda: TESLA(budgets=(1.0, 1.5)), "lies in"),
        (lambda: TESLA(alpha=1.0), "alpha"),
        (lambda: TESLA(alpha=float("nan")), "alpha"),
        (lambda: RTESLA(probabilities=(0.5, 0.5)), "4 numbers"),
        (lambda: RTESLA(task_epochs=0), "task_epochs is a whole number from 1"),
        (lambda: RTESLA(probabilities=(0.5, 0.5, 0.5, 0.5)), "sum to 1"),
        (lambda: Slimmable(budgets=(1.0,)), "at least two"),
        (lambda: Slimmable(largest_weight=0.0), "largest_weight is a finite number above 0"),
        (lambda: FineTune(weights=(1.0, 2.0)), "1 numbers"),
        (lambda: IDP(budget=0), "lies in"),
        (lambda: IDP(max_epochs=0), "max_epochs is a whole number from 1, not 0"),
        (lambda: MPIDP(patience=0), "patience"),
        (lambda: TESLA(max_epochs=None), "max_epochs is a whole number from 1, not None"),  # type: ignore[arg-type]
        (lambda: TESLA(alpha=None), "alpha"),  # type: ignore[arg-type]
        (lambda: RTESLA(max_epochs=0), "max_epochs"),
        (lambda: Slimmable(epochs=0), "epochs"),
        (lambda: Slimmable(extra=2.0), "extra is a whole number"),  # type: ignore[arg-type]
        (lambda: FineTune(budgets=()), "budgets: at least one budget"),
        (lambda: FineTune(budgets=None), "budgets are several numbers"),  # type: ignore[arg-type]
        (lambda: FineTune(budgets=torch.tensor(0.5)), "budgets are several numbers"),  # type: ignore[arg-type]
        (lambda: FineTune(weights=1.0), "weights: 1 numbers, not 1.0"),  # type: ignore[arg-type]
        (lambda: FineTune(weights=(None,)), "each of weights is a finite number"),  # type: ignore[arg-type]
        (lambda: FineTune(distill=None), "distill: True or False"),  # type: ignore[arg-type]
        (lambda: FineTune(penalty_weights=(1.0,)), "weights of the MAC penalty"),  # type: ignore[arg-type]
        (lambda: FineTune(penalty_weights={"0": None}), "weight of the MAC penalty"),  # type: ignore[dict-item]
        (lambda: RTESLA(probabilities=0.5), "probabilities: 4 numbers"),  # type: ignore[arg-type]
        (lambda: RTESLA(probabilities=(float("nan"), 0.0, 0.5, 0.5)), "each of probabilities"),
        (lambda: Objective({1.0: float("inf")}), "the weight of a budget"),
        (lambda: Objective((1.0,)), "weights: a number for each budget"),  # type: ignore[arg-type]
        (lambda: FineTune(epochs=float("inf")), "epochs"),  # type: ignore[arg-type]
        (lambda: FineTune(mac_penalty=float("inf")), "mac_penalty"),
        (lambda: FineTune(taught_temperature=float("inf")), "taught_temperature"),
    ],
)
def test_bad_options_are_refused_when_the_recipe_is_made(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_a_recipe_without_epochs_is_refused() -> None:
    with pytest.raises(ConfigError, match="epochs is a whole number from 1, not 0"):
        FineTune(epochs=0)


def test_fine_tuning_with_a_mac_penalty_needs_layers_that_stop(plain: nn.Module) -> None:
    with pytest.raises(ConfigError, match="call terminate"):
        stages(FineTune(mac_penalty=0.1), plain)
    with pytest.raises(ConfigError, match="temperature"):
        FineTune(mac_penalty=0.1, temperature=0.0)


def test_slimmable_weighs_the_largest_budget_apart(plain: nn.Module) -> None:
    (stage,) = Slimmable(budgets=(0.2, 1.0, 0.5), extra=1, largest_weight=3.0).stages(plain, 0)
    assert stage.objective.weights == {1.0: 3.0, 0.5: 1.0, 0.2: 1.0}


@pytest.mark.parametrize("option", [{"taught": 1.5}, {"taught_temperature": 0.0}, {"mac_penalty": -1.0}])
def test_fine_tuning_refuses_what_it_could_not_do_when_it_is_made(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        FineTune(**option)  # type: ignore[arg-type]
