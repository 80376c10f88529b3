"""Training with one fixed objective."""

from dataclasses import dataclass

from torch import nn

from tapernet.errors import ConfigError
from tapernet.train.objective import Objective
from tapernet.train.recipes.base import Recipe, Stage, Stages, percents


@dataclass(frozen=True)
class FineTune(Recipe):
    """A fixed objective from the first step to the last: after pruning or early termination, or from scratch.

    Args:
        budgets: what is trained; 1.0 alone for networks without a dial.
        weights: of each budget's loss; None gives each the same share of 1.
        distill: teach the smaller budgets with the largest one's output.
        epochs: all are run unless `patience` ends them.
        patience: epochs without a better validation accuracy, best weights restored; None keeps the last weights.
    """

    budgets: tuple[float, ...] = (1.0,)
    weights: tuple[float, ...] | None = None
    distill: bool = False
    epochs: int = 20
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and (len(self.weights) != len(self.budgets) or min(self.weights) < 0):
            raise ConfigError(f"weights are {len(self.budgets)} numbers, not negative: {self.weights}")

    def stages(self, net: nn.Module, seed: int) -> Stages:
        """One stage."""
        weights = self.weights or (1 / len(self.budgets),) * len(self.budgets)
        objective = Objective(dict(zip(self.budgets, weights, strict=True)), self.distill)
        yield Stage(percents(objective.budgets), objective, self.epochs, self.patience)
