"""What a recipe is."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass

from torch import nn

from tapernet.checks import check_number
from tapernet.train.objective import Objective


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one objective.

    Args:
        task: what it is called in progress bars and logs.
        objective: what it minimises.
        max_epochs: its end at the latest.
        patience: early stopping on the objective-weighted validation accuracy, with the best weights restored; None
            runs all epochs and keeps the last weights.
        frozen: weights of the sub-network at this budget do not change.
    """

    task: str
    objective: Objective
    max_epochs: int
    patience: int | None = None
    frozen: float | None = None

    def __post_init__(self) -> None:
        check_epochs(f"{self.task}: max_epochs", self.max_epochs)


Stages = Generator[Stage, int, None]


class Recipe(ABC):
    """How to train one network for many budgets: a sequence of stages.

    A new recipe is one dataclass in a file of this folder, named in its `__init__`.
    """

    @abstractmethod
    def stages(self, net: nn.Module, seed: int) -> Stages:
        """Yields stages, and is sent the number of epochs that each took.

        It must depend on its arguments and on what it is sent alone: a resumed run replays it.
        """


def check_epochs(name: str, epochs: object, *, optional: bool = False) -> None:
    """Raises ConfigError unless `epochs` is a whole number from 1, or None where that is valid."""
    if not (optional and epochs is None):
        check_number(name, epochs, 1, whole=True)


def percents(budgets: tuple[float, ...]) -> str:
    """The budgets for a task's name: "100/70/40%"."""
    return "/".join(f"{b * 100:.0f}" for b in budgets) + "%"
