"""Algorithm 1 of the ET paper: the answer of running everything for every trial, in a part of the time."""

import math
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, nn

from tapernet.nn.check import Check
from tapernet.nn.terminating import TerminatingConv2d
from tapernet.placement import PLACEMENTS, Placement, least_right, spread_sample
from tapernet.placement.rerun import GIGABYTE, Checks, Rerun


@PLACEMENTS.register("greedy-paper")
def greedy_paper(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    tolerance: float,
    *,
    shares: Sequence[float] = (0.05, 0.32),
    threshold: float = 0.0,
    batch_size: int | None = None,
    memory: int = 4 * GIGABYTE,
    sample: int | None = None,
    plain: bool = False,
) -> Placement:
    """Layers from the centre outward, the one nearer the input first; for each the first share that is tolerated.

    A trial starts from what the one before it left, in the layer that it changes. The images that the network without
    checks is least sure of come first, and a trial is over as soon as it has more wrong answers than are tolerated, or
    enough right ones.

    Where the activations of all images do not fit into memory, a pass over the images makes several trials for each
    batch. Which ones they are depends on their outcomes, so that these are guessed from a sample, as far as it is
    clear. A guess that turns out wrong is put right, and what follows from it is done again.

    Args:
        net: with no checks set.
        images: standardised, shape (n, channels, height, width).
        labels: shape (n,).
        tolerance: e_t.
        shares: v, tried in this order.
        threshold: of every check.
        batch_size: images run at once; by default at most 100, and fewer for large activations.
        memory: bytes of activations that may be kept.
        sample: images from which outcomes are guessed; by default a tenth of them, at most 2500.
        plain: make each trial on all images from the first layer on: slow, and the same answer.
    """
    candidates = [Check(share=share, threshold=threshold) for share in shares]
    if plain:
        return _plainly(Rerun(net, images, labels, batch_size=batch_size, memory=0), candidates, tolerance)
    if sample is None:
        sample = max(1, min(len(images) // 10, 2500))
    rerun = Rerun(net, images, labels, batch_size=batch_size, memory=memory)
    if _fits(rerun):
        return _Search(rerun, None, candidates, tolerance).place()
    rerun.memory //= 2
    guide = Rerun(net, *spread_sample(images, labels, sample), batch_size=batch_size, memory=memory // 2)
    return _Search(rerun, guide, candidates, tolerance).place()


def from_centre(count: int) -> list[int]:
    """0..count-1 from the centre outward, the smaller one first at equal distance."""
    return sorted(range(count), key=lambda i: (abs(2 * i - count + 1), i))


def algorithm_1(layers: Sequence[TerminatingConv2d], candidates: Sequence[Check]) -> Generator[None, bool, None]:
    """Lines 3 to 13: sets checks, and is sent after each whether the drop under them is below e_t.

    Args:
        layers: in the order in which the network runs them.
        candidates: checks to try in a layer, in this order.
    """
    for i in from_centre(len(layers)):
        for check in candidates:
            layers[i].set_checks([check])
            if (yield):
                break
            layers[i].set_checks([])


def _fits(rerun: Rerun) -> bool:
    """Whether the memory holds what two sets of checks leave behind of all images, judged by the first batch."""
    rerun.run(0)
    used = rerun.used
    rerun.forget(0)
    return 0 < 2 * used * len(rerun.images) <= rerun.memory * len(rerun.index[0])


def _plainly(rerun: Rerun, candidates: Sequence[Check], tolerance: float) -> Placement:
    count = len(rerun.images)
    before, _ = rerun.run_all()
    least = least_right(before, count, tolerance)
    rights: list[int] = []
    steps = algorithm_1(list(rerun.layers.values()), candidates)
    with suppress(StopIteration):
        next(steps)
        while True:
            rights.append(rerun.run_all()[0])
            steps.send(rights[-1] >= least)
    last = next((right for right in reversed(rights) if right >= least), before)
    return Placement(rerun.checks, before / count, last / count, len(rights))


@dataclass
class _Trial:
    """Checks that the algorithm tries, and whether they are kept: a guess, then a fact.

    Args:
        before: the checks before it.
        checks: under trial.
        kept: the decision; None if it is not even guessed.
        right: right answers so far.
        wrong: wrong answers so far.
    """

    before: Checks
    checks: Checks
    kept: bool | None
    right: int = 0
    wrong: int = 0

    @property
    def after(self) -> Checks:
        """The checks after the decision."""
        return self.checks if self.kept else self.before


class _Search:
    """Algorithm 1 by guessing and checking.

    Args:
        rerun: all images.
        guide: the sample; None if trials are made one by one, with everything kept in memory.
        candidates: checks to try in a layer, in this order.
        tolerance: e_t.
    """

    def __init__(self, rerun: Rerun, guide: Rerun | None, candidates: Sequence[Check], tolerance: float) -> None:
        self.rerun, self.guide, self.candidates, self.tolerance = rerun, guide, candidates, tolerance
        self.layers, self.count = list(rerun.layers.values()), len(rerun.images)
        self.untouched = rerun.checks

    def place(self) -> Placement:
        """Sets the checks."""
        before = self.rerun.put_hardest_first()
        self.least = least_right(before, self.count, self.tolerance)
        if self.guide is not None:
            self.guide_least = least_right(self.guide.run_all()[0], len(self.guide.images), self.tolerance)
        facts: list[_Trial] = []
        trials = self._guess(facts)
        while len(facts) < len(trials):
            facts += self._make(trials[len(facts) :])
            trials = self._guess(facts)
        last = next((trial for trial in reversed(facts) if trial.kept), None)
        right = before if last is None else self._all_right(last)
        return Placement(self.rerun.checks, before / self.count, right / self.count, len(facts))

    def _all_right(self, trial: _Trial) -> int:
        """Right answers of the trial whose checks are set, on the images that did not need to be run as well."""
        seen = trial.right + trial.wrong
        for batch, index in enumerate(self.rerun.index):
            if seen <= 0:
                trial.right += self.rerun.run(batch).right
                self.rerun.forget(batch)
            seen -= len(index)
        return trial.right

    def _guess(self, facts: Sequence[_Trial]) -> list[_Trial]:
        """The trials that the algorithm makes, as known from `facts` and beyond them as far as the sample is clear."""
        self.rerun.checks = self.untouched
        trials: list[_Trial] = []
        steps = algorithm_1(self.layers, self.candidates)
        with suppress(StopIteration):
            next(steps)
            while True:
                before = trials[-1].after if trials else self.untouched
                known = len(trials) < len(facts)
                trials.append(facts[len(trials)] if known else _Trial(before, self.rerun.checks, self._outcome()))
                if trials[-1].kept is None:
                    break
                if self.guide is not None:
                    self.guide.checks = trials[-1].after
                    self.guide.settle_all()
                steps.send(trials[-1].kept)
        return trials

    def _outcome(self) -> bool | None:
        """Whether the sample tolerates the checks of the moment; None if it cannot tell."""
        if self.guide is None:
            return None
        spare = self.guide.run_all()[0] - self.guide_least
        # Two standard deviations of the answers lost, which are about as many as are tolerated where it is close.
        unclear = 2 * math.sqrt(1 + self.tolerance * len(self.guide.images))
        return None if abs(spare) < unclear else spare >= 0

    def _make(self, trials: list[_Trial]) -> list[_Trial]:
        """Makes the trials on all images; returns them as facts, up to the first that was guessed wrong."""
        for batch, index in enumerate(self.rerun.index):
            self.rerun.checks = trials[0].before
            self.rerun.settle(batch)
            for number, trial in enumerate(trials):
                if not (self._lost(trial) or self._won(trial)):
                    self.rerun.checks = trial.checks
                    right = self.rerun.run(batch).right
                    trial.right += right
                    trial.wrong += len(index) - right
                if trial.kept is None:
                    break  # the last one
                self.rerun.checks = trial.after
                self.rerun.settle(batch)
                if self._lost(trial) if trial.kept else self._won(trial):
                    # Guessed wrong for certain: the trials after it will not be made.
                    del trials[number + 1 :]
                    break
            if self.guide is not None:
                self.rerun.forget(batch)
        return self._facts(trials)

    def _lost(self, trial: _Trial) -> bool:
        return trial.wrong > self.count - self.least

    def _won(self, trial: _Trial) -> bool:
        return trial.right >= self.least

    def _facts(self, trials: Sequence[_Trial]) -> list[_Trial]:
        facts: list[_Trial] = []
        for trial in trials:
            guess, trial.kept = trial.kept, self._won(trial)
            facts.append(trial)
            if trial.kept != guess:
                break
        return facts
