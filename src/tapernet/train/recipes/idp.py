"""The original incomplete dot product."""

from dataclasses import dataclass

from torch import nn

from tapernet.budget import to_percent
from tapernet.train.objective import Objective
from tapernet.train.recipes.base import Recipe, Stage, Stages, check_epochs, percents


@dataclass(frozen=True)
class IDP(Recipe):
    """Trains at one budget; the profile alone orders the channels (McDanel et al. 2017, as told in TESLA section 2).

    With a budget below 1.0 only that sub-network is trained: a network of its own width.

    Args:
        budget: the one that is trained; 1.0 in the paper.
        max_epochs: the end at the latest.
        patience: epochs without a better validation accuracy; None runs them all.
    """

    budget: float = 1.0
    max_epochs: int = 100
    patience: int | None = 4

    def __post_init__(self) -> None:
        to_percent(self.budget)
        check_epochs("max_epochs", self.max_epochs)
        check_epochs("patience", self.patience, optional=True)

    def stages(self, net: nn.Module, seed: int) -> Stages:
        """One stage."""
        yield Stage(percents((self.budget,)), Objective({self.budget: 1.0}), self.max_epochs, self.patience)
