"""Objectives: weighted sums of the task losses at several budgets.

Every recipe minimises one; recipes differ in how its weights move from stage to stage, or from step to step.
"""

import random
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.budget import check_budgets, to_percent
from tapernet.checks import check_flag, check_kind, check_number
from tapernet.errors import ConfigError
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import at
from tapernet.nn.once import computing_once, first_layers
from tapernet.nn.penalty import estimating_macs, mac_penalty

Terms = list[tuple[float, float]]
"""(budget, weight) pairs of one step, largest budget first."""


class Step:
    """What one step minimises. An opaque object: Fabric walks through every list and dataclass that it passes on.

    Args:
        terms: the budgets and their weights.
        divisor: of the loss summed over the batch; the batch's size makes it a mean.
    """

    __slots__ = ("divisor", "terms")

    def __init__(self, terms: Terms, divisor: float) -> None:
        self.terms, self.divisor = terms, divisor


@dataclass(frozen=True)
class Penalty:
    """What a terminating network pays for its MACs, on top of the task loss at each budget.

    Args:
        factor: of the estimated share of MACs done (`tapernet.mac_penalty`), not negative; 0 for none.
        temperature: of the estimate, positive.
        weights: of the layers, by path, not negative and not all zero; None goes by MACs.
    """

    factor: float = 0.0
    temperature: float = 0.1
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check_number("the factor of the MAC penalty", self.factor, 0)
        check_number("the temperature of the MAC penalty", self.temperature, 0, above=True)
        check_kind("the weights of the MAC penalty", self.weights, (Mapping, type(None)), "a number for each layer")
        for weight in (self.weights or {}).values():
            check_number("each weight of the MAC penalty", weight, 0)
        if self.weights is not None and not sum(self.weights.values()) > 0:
            raise ConfigError(f"the weights of the MAC penalty are not all zero, but are {self.weights!r}")


NO_PENALTY = Penalty()


@dataclass(frozen=True)
class Objective:
    """sum over budgets b of weight_b x (loss(net at b) + penalty(net at b)).

    Args:
        weights: budget to weight; a task in the TESLA paper's sense for each.
        distill: the largest budget learns from the labels, the others from the largest one's output (in-place
            distillation, Yu and Huang 2019, "Universally Slimmable Networks", section 4).
        penalty: on the MACs of a terminating network.
        taught: how much of what the largest budget learns from, and without `distill` every one, is a teacher's
            output, the rest being the labels; in [0, 1].
        taught_temperature: by which the scores of both are divided where the network learns from the teacher (Hinton et
            al. 2015, section 2); above 1 a teacher that is sure of its answer still tells what else is like it.
    """

    weights: Mapping[float, float]
    distill: bool = False
    penalty: Penalty = NO_PENALTY
    taught: float = 0.0
    taught_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_kind("weights", self.weights, Mapping, "a number for each budget")
        check_budgets(self.weights)
        for weight in self.weights.values():
            check_number("the weight of a budget", weight, 0)
        check_flag("distill", self.distill)
        check_number("taught_temperature", self.taught_temperature, 0, above=True)
        check_number("taught", self.taught, 0, 1)

    @property
    def budgets(self) -> tuple[float, ...]:
        """The budgets, largest first."""
        return tuple(sorted(self.weights, reverse=True))

    @property
    def largest(self) -> float:
        """The largest budget."""
        return max(self.weights)

    def add(self, budget: float, alpha: float) -> "Objective":
        """alpha x loss(budget) + (1 - alpha) x this objective (TESLA paper, Eq. 3)."""
        to_percent(budget)
        weights = {b: (1 - alpha) * w for b, w in self.weights.items()}
        weights[budget] = weights.get(budget, 0.0) + alpha
        return replace(self, weights=weights)

    def draw(self, rng: random.Random) -> Terms:
        """The terms of one step."""
        return [(b, self.weights[b]) for b in self.budgets]


@dataclass(frozen=True)
class Sandwich(Objective):
    """The largest and the smallest budget in every step, and some random ones between (the sandwich rule).

    Source: Yu and Huang 2019, section 3.

    Args:
        extra: random budgets in each step, drawn without replacement.
    """

    extra: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.extra <= len(self.weights) - 2:
            raise ConfigError(
                f"the sandwich rule draws 0 to {len(self.weights) - 2} budgets between the largest and "
                f"the smallest of {len(self.weights)}, not {self.extra}"
            )

    def draw(self, rng: random.Random) -> Terms:
        """Largest, drawn ones, smallest."""
        largest, *between, smallest = self.budgets
        chosen = sorted(rng.sample(between, self.extra), reverse=True)
        return [(b, self.weights[b]) for b in (largest, *chosen, smallest)]


class ObjectiveLoss(nn.Module):
    """The loss of a step as one module, so that a distributed wrapper sees one forward pass.

    Args:
        net: the network; any module, if the objective asks for budget 1.0 alone.
        objective: what is trained; the terms of a step are given with it.
        teacher: whose output is the taught share of the labels, another network than `net`; run in eval mode, without
            gradients. None if there is none, or if its scores are given with each batch.
    """

    def __init__(self, net: nn.Module, objective: Objective, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.objective = net, objective
        self._teacher = (teacher,)  # not as a submodule, which would be wrapped and synchronised with the network
        self._first = first_layers(net)

    def forward(self, x: Tensor, y: Tensor, step: Step, given: Tensor | None = None) -> Tensor:
        """Weighted sum over the step's terms of the cross-entropy, summed over the batch and divided by its divisor.

        Shapes: x (batch, channels, height, width), y (batch,), given (batch, classes), result ().

        Args:
            x: images.
            y: labels.
            step: what to minimise.
            given: the scores of a teacher who was asked before.

        Raises:
            ConfigError: a penalty on a network without terminating layers, or a weight for a layer that it lacks.
        """
        total: Tensor | None = None
        (teacher,) = self._teacher
        if teacher is not None:
            with torch.no_grad(), eval_mode(teacher):
                given = teacher(x)
        largest: Tensor | None = None
        first = self._first if len(step.terms) > 1 else ()
        penalty = self.objective.penalty
        estimating = estimating_macs(self.net, penalty.temperature) if penalty.factor else nullcontext()
        with computing_once(first), estimating:
            for budget, weight in step.terms:
                with at(self.net, budget):
                    scores = self.net(x)
                if largest is None:
                    task = self._task(scores, y, given)
                else:
                    task = F.cross_entropy(scores, largest, reduction="sum")
                if penalty.factor:
                    task = task + len(x) * penalty.factor * mac_penalty(self.net, penalty.weights)
                task = task * (weight / step.divisor)
                total = task if total is None else total + task
                if self.objective.distill and largest is None:
                    largest = scores.detach().softmax(1)
        assert total is not None
        return total

    def _task(self, scores: Tensor, y: Tensor, given: Tensor | None) -> Tensor:
        """What is learned from the labels and from a teacher, in their shares, summed over the batch."""
        labels = F.cross_entropy(scores, y, reduction="sum")
        if given is None:
            return labels
        hot = self.objective.taught_temperature
        likely = (given.float() / hot).softmax(1)
        # Its gradient shrinks with the temperature's square (Hinton et al. 2015, section 2).
        taught = F.cross_entropy(scores.float() / hot, likely, reduction="sum") * hot**2
        return torch.lerp(labels, taught, self.objective.taught)
