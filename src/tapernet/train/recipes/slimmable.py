"""The peers from the slimmable-networks line of work."""

from dataclasses import dataclass

from torch import nn

from tapernet.budget import TEN_BUDGETS, check_budgets
from tapernet.checks import check_flag, check_number
from tapernet.errors import ConfigError
from tapernet.train.objective import Sandwich
from tapernet.train.recipes.base import Recipe, Stage, Stages, check_epochs, percents


@dataclass(frozen=True)
class Slimmable(Recipe):
    """Sandwich rule and in-place distillation (Yu and Huang 2019, "Universally Slimmable Networks").

    Args:
        budgets: the largest and smallest are in every step, the others are drawn.
        extra: budgets drawn in each step.
        largest_weight: of the largest budget's loss; that of every other one is 1.
        distill: teach the smaller ones with the largest one's output.
        epochs: all are run, and the last weights kept.
    """

    budgets: tuple[float, ...] = TEN_BUDGETS
    extra: int = 2
    largest_weight: float = 1.0
    distill: bool = True
    epochs: int = 30

    def __post_init__(self) -> None:
        check_budgets(self.budgets)
        if len(self.budgets) < 2:
            raise ConfigError("the sandwich rule needs at least two budgets")
        check_number("largest_weight", self.largest_weight, 0, above=True)
        check_number("extra", self.extra, 0, len(self.budgets) - 2, whole=True)
        check_flag("distill", self.distill)
        check_epochs("epochs", self.epochs)

    def stages(self, net: nn.Module, seed: int) -> Stages:
        """One stage."""
        weights = dict.fromkeys(self.budgets, 1.0) | {max(self.budgets): self.largest_weight}
        objective = Sandwich(weights, self.distill, extra=self.extra)
        yield Stage(percents(objective.budgets), objective, self.epochs)
