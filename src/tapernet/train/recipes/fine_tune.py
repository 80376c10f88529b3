"""Training with one fixed objective."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from torch import nn

from tapernet.budget import check_budgets
from tapernet.checks import check_number, check_numbers
from tapernet.errors import ConfigError
from tapernet.nn.learning import learning_thresholds
from tapernet.nn.terminating import terminating_layers
from tapernet.train.objective import Objective, Penalty
from tapernet.train.recipes.base import Recipe, Stage, Stages, check_epochs, percents


@dataclass(frozen=True)
class FineTune(Recipe):
    """A fixed objective from the first step to the last: after pruning or early termination, or from scratch.

    Args:
        budgets: what is trained; 1.0 alone for networks without a dial.
        weights: of each budget's loss; None gives each the same share of 1.
        distill: teach the smaller budgets with the largest one's output.
        epochs: all are run unless `patience` ends them.
        patience: epochs without a better validation accuracy, best weights restored; None keeps the last weights.
        mac_penalty: factor of the share of MACs done in the loss, for networks from `tapernet.terminate`: it moves
            partial sums below zero, so that more filters stop at their checks.
        temperature: of the estimate of that share, see `tapernet.estimating_macs`.
        taught: how much of what the largest budget learns from, and without `distill` every one, is the output of a
            teacher, which `fit` is given, in [0, 1]; the rest is the labels. A network that is tuned after pruning or
            termination may so learn from what it was (Hinton et al. 2015, "Distilling the Knowledge in a Neural
            Network").
        taught_temperature: by which the scores of both are divided there; above 1 a teacher that is sure of its answer
            still tells what else is like it.
        penalty_weights: how much each terminating layer's share counts in the penalty, by path, layers without one
            not at all: those of `tapernet.time_weights` go by time in place of MACs. They are part of what identifies a
            run, so that only one with the same weights can go on from its checkpoint.
        threshold_scale: of what the checks' thresholds learn, for networks with the gradient "gated", see
            `tapernet.learning_thresholds`; 0 leaves them where they were placed.
    """

    budgets: tuple[float, ...] = (1.0,)
    weights: tuple[float, ...] | None = None
    distill: bool = False
    epochs: int = 20
    patience: int | None = None
    mac_penalty: float = 0.0
    temperature: float = 0.1
    penalty_weights: Mapping[str, float] | None = None
    taught: float = 0.0
    taught_temperature: float = 1.0
    threshold_scale: float = 0.0

    def __post_init__(self) -> None:
        check_budgets(self.budgets)
        check_epochs("epochs", self.epochs)
        check_epochs("patience", self.patience, optional=True)
        for field in ("mac_penalty", "threshold_scale"):
            check_number(field, getattr(self, field), 0)
        if self.weights is not None:
            check_numbers("weights", self.weights, len(self.budgets))
        self._objective({1.0: 1.0})  # tells now what it would not take later
        if self.penalty_weights is not None:  # in one order, since a checkpoint knows them as text
            object.__setattr__(self, "penalty_weights", dict(sorted(self.penalty_weights.items())))

    def stages(self, net: nn.Module, seed: int) -> Stages:
        """One stage.

        Raises:
            ConfigError: a MAC penalty or thresholds that learn on a network without terminating layers, or thresholds
                that cannot learn.
        """
        if self.mac_penalty and not terminating_layers(net):
            raise ConfigError(f"mac_penalty needs layers that stop early, and {type(net).__name__} has none: "
                              f"call terminate(model, example) first")  # fmt: skip
        weights = self.weights or (1 / len(self.budgets),) * len(self.budgets)
        objective = self._objective(dict(zip(self.budgets, weights, strict=True)))
        learning = learning_thresholds(net, self.threshold_scale) if self.threshold_scale else nullcontext()
        with learning:
            yield Stage(percents(objective.budgets), objective, self.epochs, self.patience)

    def _objective(self, weights: Mapping[float, float]) -> Objective:
        penalty = Penalty(self.mac_penalty, self.temperature, self.penalty_weights)
        return Objective(weights, self.distill, penalty, self.taught, self.taught_temperature)
