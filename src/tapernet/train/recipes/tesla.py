"""Task-wise early stopping and loss aggregation."""

from dataclasses import dataclass

from torch import nn

from tapernet.budget import check_budgets
from tapernet.checks import check_number
from tapernet.errors import ConfigError
from tapernet.train.objective import Objective
from tapernet.train.recipes.base import Recipe, Stage, Stages, check_epochs, percents


def check_alpha(alpha: float) -> None:
    """Raises ConfigError unless 0 < alpha < 1."""
    check_number("alpha", alpha, 0, 1, above=True)
    if alpha == 1:
        raise ConfigError("alpha is below 1, or the earlier tasks would be forgotten")


@dataclass(frozen=True)
class TESLA(Recipe):
    """Adds one task after another, in decreasing budget, to a joint objective (TESLA paper, Algorithm 1, Eq. 3).

    With a network of profile "trainable", profile and weights are trained in turns: TESLA with ATP (section 3.4).

    Args:
        budgets: the tasks (Table 1: 100, 70, 40, 10% on MNIST).
        alpha: share of the new task in the new objective.
        patience: epochs without a better validation accuracy that end a task.
        max_epochs: a task's end at the latest.
    """

    budgets: tuple[float, ...] = (1.0, 0.7, 0.4, 0.1)
    alpha: float = 0.5
    patience: int = 4
    max_epochs: int = 100

    def __post_init__(self) -> None:
        check_budgets(self.budgets)
        check_alpha(self.alpha)
        check_epochs("max_epochs", self.max_epochs)
        check_epochs("patience", self.patience)

    def stages(self, net: nn.Module, seed: int) -> Stages:
        """One stage for each budget, largest first."""
        first, *rest = sorted(self.budgets, reverse=True)
        objective = Objective({first: 1.0})
        yield Stage(percents(objective.budgets), objective, self.max_epochs, self.patience)
        for budget in rest:
            objective = objective.add(budget, self.alpha)
            yield Stage(percents(objective.budgets), objective, self.max_epochs, self.patience)
