"""Randomized TESLA."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from tapernet.budget import check_budgets
from tapernet.checks import check_numbers
from tapernet.errors import ConfigError
from tapernet.train.objective import Objective
from tapernet.train.recipes.base import Recipe, Stage, Stages, check_epochs, percents
from tapernet.train.recipes.tesla import check_alpha


@dataclass(frozen=True)
class RTESLA(Recipe):
    """Adds a random task again and again until the epochs are used up (TESLA paper, Algorithm 2).

    Args:
        budgets: the tasks; the first one is trained first.
        probabilities: a user's distribution of operating points, from which each task is drawn anew. None takes the
            tasks in rounds, each round in an order of its own: equal draws leave some task out of 50 epochs in most
            runs, and the paper speaks of tasks "in random order".
        alpha: share of the new task in the new objective.
        patience: epochs without a better validation accuracy that end a task.
        max_epochs: of the whole run (Table 1: 50 on MNIST).
        task_epochs: a task's end at the latest; None leaves it to `patience`.
    """

    budgets: tuple[float, ...] = (1.0, 0.7, 0.4, 0.1)
    probabilities: tuple[float, ...] | None = None
    alpha: float = 0.5
    patience: int = 4
    max_epochs: int = 50
    task_epochs: int | None = None

    def __post_init__(self) -> None:
        check_budgets(self.budgets)
        check_alpha(self.alpha)
        check_epochs("max_epochs", self.max_epochs)
        check_epochs("patience", self.patience)
        check_epochs("task_epochs", self.task_epochs, optional=True)
        if self.probabilities is not None:
            check_numbers("probabilities", self.probabilities, len(self.budgets))
            if abs(sum(self.probabilities) - 1) > 1e-6:
                raise ConfigError(f"probabilities sum to 1, not as {self.probabilities}")

    def stages(self, net: nn.Module, seed: int) -> Stages:
        """Stages in an order that the seed draws."""
        tasks = self._tasks(random.Random(f"R-TESLA {seed}"))
        objective = Objective({self.budgets[0]: 1.0})
        left = self.max_epochs
        while left > 0:
            longest = left if self.task_epochs is None else min(left, self.task_epochs)
            left -= yield Stage(percents(objective.budgets), objective, longest, self.patience)
            objective = objective.add(next(tasks), self.alpha)

    def _tasks(self, rng: random.Random) -> Iterator[float]:
        """The tasks after the first, without end."""
        while self.probabilities is not None:
            yield from rng.choices(self.budgets, self.probabilities)
        left = list(self.budgets[1:])  # the first one has had its turn in the first round
        while True:
            rng.shuffle(left)
            yield from left
            left = list(self.budgets)
