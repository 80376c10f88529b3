"""Multiple-profile incomplete dot products."""

from dataclasses import dataclass

from torch import nn

from tapernet.errors import ConfigError
from tapernet.nn.net import TaperedNet
from tapernet.train.objective import Objective
from tapernet.train.recipes.base import Recipe, Stage, Stages, check_epochs, percents


@dataclass(frozen=True)
class MPIDP(Recipe):
    """Ranges in increasing order, each trained at its upper budget with its own profile (TESLA paper, section 2.2).

    A range's stage changes only the weights that its sub-network adds to the range below; weights beyond it take no
    part. First and last layers exist once for each range, so each trains them afresh.

    Args:
        max_epochs: the end of each range's stage at the latest.
        patience: epochs without a better validation accuracy; None runs them all.
    """

    max_epochs: int = 100
    patience: int | None = 4

    def __post_init__(self) -> None:
        check_epochs("max_epochs", self.max_epochs)
        check_epochs("patience", self.patience, optional=True)

    def stages(self, net: nn.Module, seed: int) -> Stages:
        """One stage for each range; raises ConfigError for a network with a single profile."""
        if not isinstance(net, TaperedNet) or len(net.ranges) < 2:
            raise ConfigError(
                "MPIDP trains a network with several profiles: taper(..., profile={0.5: 'linear', 1.0: 'linear'})"
            )
        below: float | None = None
        for upper in net.ranges:
            budget = upper / 100
            yield Stage(f"up to {percents((budget,))}", Objective({budget: 1.0}), self.max_epochs, self.patience, below)
            below = budget
