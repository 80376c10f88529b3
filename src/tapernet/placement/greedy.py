"""Checks placed one by one, each where it saves the most MACs per point of accuracy lost."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, product

from torch import Tensor, nn

from tapernet.nn.check import Check
from tapernet.nn.terminating import Outcome, terminating_layers
from tapernet.placement import PLACEMENTS, Placement, least_right, spread_sample
from tapernet.placement.rerun import GIGABYTE, Checks, Cost, Rerun

SHARES = (0.02, 0.05, 0.1, 0.2, 0.32, 0.5)
Candidates = Mapping[str, Sequence[tuple[Check, ...]]]
"""What the checks of each layer, by its path, may be set to."""


@PLACEMENTS.register("greedy")
def greedy(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    tolerance: float,
    *,
    shares: Sequence[float] = SHARES,
    thresholds: Sequence[float] = (0.0,),
    bias_first: bool | None = None,
    batch_size: int | None = None,
    memory: int = 4 * GIGABYTE,
    sample: int = 2500,
) -> Placement:
    """In each step, of all checks in all layers the one that saves the most MACs per answer lost, while tolerated.

    Algorithm 1 spends the tolerance on the layers that it happens to meet first; this spends it where it buys most. A
    layer's check may be replaced by one that saves more. Gains are not measured anew after every step: the best of the
    old ones is, and if it is still the best, it is taken (the lazy greedy algorithm of Minoux 1978). It ends when no
    check saves more and is tolerated. Steps are chosen on a sample; the last ones are taken back while the drop on all
    images is not tolerated.

    Args:
        net: with no checks set.
        images: standardised, shape (n, channels, height, width).
        labels: shape (n,).
        tolerance: e_t.
        shares: positions to choose from, as shares of a filter's terms.
        thresholds: to choose from, with every share.
        bias_first: whether partial sums include the bias; None leaves it as the network has it.
        batch_size: images run at once; by default at most 100, and fewer for large activations.
        memory: bytes of activations that may be kept.
        sample: images on which steps are chosen.
    """
    set_bias_first(net, bias_first)
    candidates = dict.fromkeys(terminating_layers(net), single_checks(shares, thresholds))
    return place_greedily(
        net, images, labels, tolerance, candidates, macs_done, batch_size=batch_size, memory=memory, sample=sample
    )


def single_checks(shares: Sequence[float], thresholds: Sequence[float]) -> list[tuple[Check, ...]]:
    """One check a layer, at every share with every threshold."""
    return [(Check(share=share, threshold=threshold),) for share, threshold in product(shares, thresholds)]


def macs_done(_: str, outcome: Outcome) -> int:
    """The MACs that a call of a layer did."""
    return outcome.full.numel() * outcome.terms - int(outcome.saved().sum())


def set_bias_first(net: nn.Module, bias_first: bool | None) -> None:
    """Lets all partial sums include the bias, or none; None changes nothing."""
    if bias_first is not None:
        for layer in terminating_layers(net).values():
            layer.options = replace(layer.options, bias_first=bias_first)


def place_greedily(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    tolerance: float,
    candidates: Candidates,
    cost: Cost,
    *,
    batch_size: int | None,
    memory: int,
    sample: int,
    least: float = 0.0,
) -> Placement:
    """Sets the checks that lower a cost the most per answer lost, while tolerated; see `greedy` for the arguments.

    Steps that lower the cost by no more than the share `least` are not worth an answer.
    """
    some = spread_sample(images, labels, sample)
    guide = Rerun(net, *some, batch_size=batch_size, memory=memory // 2, cost=cost)
    steps, trials = choose_steps(guide, candidates, tolerance, least)
    rerun = Rerun(net, images, labels, batch_size=batch_size, memory=memory // 2)
    rerun.checks = steps[0]
    before, _ = rerun.run_all()
    tolerated = least_right(before, len(images), tolerance)
    right, taken = before, steps[0]
    for step in reversed(steps[1:]):
        rerun.checks = step
        if (tried := rerun.run_all()[0]) >= tolerated:
            right, taken = tried, step
            break
    rerun.checks = taken
    return Placement(taken, before / len(images), right / len(images), trials)


def choose_steps(
    guide: Rerun, candidates: Candidates, tolerance: float, least: float = 0.0
) -> tuple[list[Checks], int]:
    """The checks after no step, after the first, and so on; and how many trials that took.

    Args:
        guide: images to measure on, with the cost to be lowered, and no checks set.
        candidates: what to choose from in each layer.
        tolerance: accuracy drop that must not be reached.
        least: share of the cost that a step must lower it by, and more.
    """
    steps = [guide.checks]
    guide.put_hardest_first()
    right, cost = guide.run_all()
    tolerated = least_right(right, len(guide.images), tolerance)
    choices = [(path, checks) for path in guide.layers for checks in candidates[path]]
    moves: list[_Move] = []
    trials, numbers, tried_after = 0, count(), 0
    while moves or tried_after < len(steps):
        if not moves:
            # What was not tolerated may be after other steps. The gain of a move that is not measured is infinite, so
            # that each is measured before any is made.
            moves = [_Move(-math.inf, next(numbers), path, checks) for path, checks in choices]
            tried_after = len(steps)
            continue
        move = heapq.heappop(moves)
        checks = {**steps[-1], move.path: move.checks}
        if move.step == len(steps):
            steps.append(checks)
            right, cost = move.right, move.cost
            continue
        if checks == steps[-1]:
            continue
        guide.checks = checks
        result = guide.run_within(tolerated, cost * (1 - least))
        guide.checks = steps[-1]
        guide.settle_all()
        trials += 1
        if result is not None:
            new_right, new_cost = result
            # One answer more than was lost, so that a move that loses none has a gain too.
            gain = (cost - new_cost) / (max(right - new_right, 0) + 1)
            number = next(numbers)
            heapq.heappush(
                moves, replace(move, order=-gain, number=number, step=len(steps), right=new_right, cost=new_cost)
            )
    return steps, trials


@dataclass(frozen=True, order=True)
class _Move:
    """Checks that may be set in a layer, those of the greatest gain first.

    Args:
        order: minus the gain.
        number: decides between equal gains.
        path: of the layer.
        checks: to be set there.
        step: number of steps before which it was measured; -1 if never.
        right: right answers with it.
        cost: with it.
    """

    order: float
    number: int
    path: str = field(compare=False)
    checks: tuple[Check, ...] = field(compare=False)
    step: int = field(default=-1, compare=False)
    right: int = field(default=0, compare=False)
    cost: float = field(default=0, compare=False)
