"""`calibrate_cascade`: thresholds that save the most MACs at a bounded loss of accuracy."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor

from tapernet.cascade.run import CONFIDENCES, Cascade, stage_macs
from tapernet.data import ImageData
from tapernet.errors import ConfigError, DataError
from tapernet.measure.accuracy import predicted
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import Budget, TaperedNet

GRID = 500
"""Most combinations of thresholds to start from, for each choice of stages."""
STARTS = 10
"""The best of them, which are refined."""
NONE, ALL = 1.01, 0.0
"""Thresholds above every confidence, and below."""


def calibrate_cascade(
    net: TaperedNet,
    val: ImageData,
    budgets: Sequence[Budget] = (0.2, 0.5, 1.0),
    *,
    max_loss: float = 0.005,
    confidence: str = "probability",
    batch_size: int = 1000,
) -> Cascade:
    """The cascade of least average MACs whose accuracy on `val` is at least the largest budget's less `max_loss`.

    Every budget is run once on every image; the rest is counting. All choices of stages that end in the largest budget
    are compared, since a stage that answers few images is better left out. For two stages the threshold is the best
    there is: the lowest that keeps the accuracy. For more, the earlier thresholds are taken from a grid of quantiles
    of the confidences, with the best last threshold for each; the best combinations are then refined by moving one
    threshold after another to its best value, until none moves. Values lie half-way between two images' confidences.

    Args:
        net: the network, with batch-norm statistics for these budgets; left at the budget and in the mode it was in.
        val: validation images, which no training saw. The test set has no place here.
        budgets: that may be stages, each with more MACs than the one before.
        max_loss: of accuracy, in [0, 1).
        confidence: a name in `CONFIDENCES`.
        batch_size: images run at once.

    Returns:
        The cascade, with the stages that are of use: perhaps the largest budget alone.

    Raises:
        ConfigError: bad budgets, fewer than two, or without statistics; a bad `max_loss`, an unknown confidence.
        DataError: the images do not have the network's shape.
    """
    if len(budgets) < 2:
        raise ConfigError(f"a cascade is calibrated between at least two budgets, not {len(budgets)}")
    if isinstance(max_loss, bool) or not (math.isfinite(max_loss) and 0 <= max_loss < 1):
        raise ConfigError(f"max_loss is a share in [0, 1), not {max_loss!r}")
    if val.shape != net.input_shape:
        raise DataError(f"the images have shape {val.shape}, but the network takes {net.input_shape}")
    macs = stage_macs(net, budgets)
    sure, right = _measure(net, val, budgets, confidence, batch_size)
    # Counted in whole images; the small part keeps float error from asking for one more.
    needed = math.ceil(int(right[-1].sum()) - max_loss * len(val) - 1e-9)
    last = len(budgets) - 1
    best = _Found(float(macs[last]), (last,), ())
    for size in range(1, last + 1):
        for early in combinations(range(last), size):
            stages = (*early, last)
            images = _Images(sure[list(early)], right[list(stages)], [macs[i] for i in stages], needed)
            for thresholds in images.best():
                found = _Found(images.average(thresholds), stages, thresholds)
                best = min(best, found, key=lambda f: f.macs)
    return Cascade(net, [budgets[i] for i in best.stages], best.thresholds, confidence)


@dataclass(frozen=True)
class _Found:
    """Average MACs of an image, with the stages and thresholds that need so many."""

    macs: float
    stages: tuple[int, ...]
    thresholds: tuple[float, ...]


@torch.no_grad()
def _measure(
    net: TaperedNet, val: ImageData, budgets: Sequence[Budget], confidence: str, batch_size: int
) -> tuple[Tensor, Tensor]:
    """How sure each budget is of each image, and whether it is right; shapes (budgets, images)."""
    measure = CONFIDENCES[confidence]
    device = next(net.parameters()).device
    sure, right = [], []
    with eval_mode(net):
        for budget in budgets:
            with net.at(budget):
                scores = torch.cat([net(x.to(device)).cpu() for x in torch.split(val.as_float(), batch_size)])
            sure.append(measure(scores.double()))
            right.append(predicted(scores) == val.labels.cpu())
    return torch.stack(sure), torch.stack(right)


class _Images:
    """Every image at every stage of one cascade.

    Args:
        sure: confidence at every stage but the last, shape (stages - 1, images).
        right: whether the answer is right, shape (stages, images).
        macs: of one image at each stage.
        needed: images to be right.
    """

    def __init__(self, sure: Tensor, right: Tensor, macs: Sequence[int], needed: int) -> None:
        self.sure, self.right, self.macs, self.needed = sure, right, macs, needed
        self.count = sure.shape[1]

    def best(self) -> list[tuple[float, ...]]:
        """The best thresholds that were found; empty if none keeps the accuracy."""
        starts = [t for early in self._grid() if (t := self._moved((*early, NONE), len(early))) is not None]
        refined = [self._refined(t) for t in sorted(starts, key=self.average)[:STARTS]]
        return sorted(refined, key=self.average)[:1]

    def average(self, thresholds: Sequence[float]) -> float:
        """MACs of an image."""
        left, total = torch.ones(self.count, dtype=torch.bool), self.macs[0] * self.count
        for stage, threshold in enumerate(thresholds):
            left = left & (self.sure[stage] < threshold)
            total += self.macs[stage + 1] * int(left.sum())
        return total / self.count

    def _grid(self) -> Iterator[tuple[float, ...]]:
        """Quantiles of the confidences for every threshold but the last."""
        early = len(self.sure) - 1
        each = int(GRID ** (1 / early)) if early else 0
        shares = torch.linspace(0, 1, max(2, each), dtype=torch.float64)
        lists = [sorted({ALL, NONE, *torch.quantile(s, shares).tolist()}) for s in self.sure[:early]]
        return product(*lists)

    def _refined(self, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        """Moves one threshold after another to its best value, until none saves anything more."""
        while True:
            before = self.average(thresholds)
            for stage in range(len(thresholds)):
                moved = self._moved(thresholds, stage)
                if moved is not None and self.average(moved) < self.average(thresholds):
                    thresholds = moved
            if self.average(thresholds) >= before:
                return thresholds

    def _moved(self, thresholds: tuple[float, ...], stage: int) -> tuple[float, ...] | None:
        """With the lowest threshold of this stage that keeps the accuracy, the others as they are; None if none does.

        Lower means fewer MACs: more images are answered here, and none of them runs what comes after.
        """
        arriving = torch.ones(self.count, dtype=torch.bool)
        fixed = 0
        for earlier in range(stage):
            going_on = arriving & (self.sure[earlier] < thresholds[earlier])
            fixed += int((self.right[earlier] & arriving & ~going_on).sum())
            arriving = going_on
        here = arriving.nonzero()[:, 0]
        sure, order = self.sure[stage, here].sort(descending=True)
        later = self._later(thresholds, stage)[here][order]
        now = self.right[stage, here][order]
        zero = torch.zeros(1, dtype=torch.long)
        # Right answers if the k images that are surest here are answered here, for k = 0, 1, ...
        right = torch.cat([zero, now.long().cumsum(0)]) + int(later.sum()) - torch.cat([zero, later.long().cumsum(0)])
        # A threshold cannot part images of one confidence.
        edges = torch.cat([torch.ones(1, dtype=torch.bool), sure[1:] < sure[:-1], torch.ones(1, dtype=torch.bool)])
        kept = (edges[: len(right)] & (right + fixed >= self.needed)).nonzero()[:, 0]
        if len(kept) == 0:
            return None
        return (*thresholds[:stage], _between(sure, int(kept[-1])), *thresholds[stage + 1 :])

    def _later(self, thresholds: tuple[float, ...], stage: int) -> Tensor:
        """Whether each image, if it goes on from a stage, is answered rightly later."""
        answer = self.right[-1]
        for later in range(len(thresholds) - 1, stage, -1):
            answer = torch.where(self.sure[later] >= thresholds[later], self.right[later], answer)
        return answer


def _between(sure: Tensor, answered: int) -> float:
    """A threshold that the first `answered` of the descending confidences reach, and no other."""
    if answered == 0:
        return NONE
    if answered == len(sure):
        return ALL
    return float(sure[answered - 1] + sure[answered]) / 2
