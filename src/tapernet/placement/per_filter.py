"""A check for each filter: all filters at once trade what they save against what they are expected to harm."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.nn.check import Check
from tapernet.nn.mode import eval_mode
from tapernet.nn.terminating import Outcome, TerminatingConv2d, terminating_layers
from tapernet.placement import PLACEMENTS, Placement, least_right, spread_sample
from tapernet.placement.rerun import GIGABYTE, Checks, Rerun


@PLACEMENTS.register("per-filter")
def per_filter(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    tolerance: float,
    *,
    shares: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.32, 0.5),
    thresholds: Sequence[float] = (0.0,),
    batch_size: int = 100,
    memory: int = 4 * GIGABYTE,
    sample: int = 2500,
    halvings: int = 14,
    checks: int = 1,
) -> Placement:
    """Each filter takes the check with the greatest saving - price * harm; the lowest tolerated price is searched.

    The harm of a check is what it is expected to take from the images' margins, to first order: the sum over the
    stopped outputs of what becomes of the output after ReLU, less what it was, times the margin's gradient by it,
    whose size is summed over the images. The margin is the label's score over the log-sum of the others. One pass over
    a sample measures savings and harms of all checks in all filters; each price then costs one run of the sample.

    Args:
        net: with no checks set, and fit for training; one with a dial at budget 1.0.
        images: standardised, shape (n, channels, height, width).
        labels: shape (n,).
        tolerance: e_t.
        shares: positions to choose from, as shares of a filter's terms.
        thresholds: to choose from, with every share.
        batch_size: images run at once.
        memory: bytes of activations that may be kept.
        sample: images on which prices are tried first.
        halvings: prices tried on the sample.
        checks: that a filter may have, from 1. Every further one comes before those that the filters have at the price
            found so far; then the price is searched anew.

    Raises:
        ConfigError: a dial below 1.0; fewer than one check.
    """
    if checks < 1:
        raise ConfigError(f"a filter may have one check or more, not {checks!r}")
    some = spread_sample(images, labels, sample)
    candidates = [Check(share=share, threshold=threshold) for share, threshold in product(shares, thresholds)]
    choices = [(check,) for check in candidates]
    tables = {path: _Table.empty(layer, choices) for path, layer in terminating_layers(net).items()}
    _measure(net, some, tables, batch_size)
    guide = Rerun(net, *some, batch_size=batch_size, memory=0)
    untouched = guide.checks
    prices = _tolerated_prices(guide, tables, tolerance, halvings)
    for _ in range(checks - 1):
        for table in tables.values():
            table.add_earlier(candidates, prices[0])
        guide.checks = untouched
        _measure(net, some, tables, batch_size)
        prices = _tolerated_prices(guide, tables, tolerance, halvings)
    rerun = Rerun(net, images, labels, batch_size=batch_size, memory=0)
    rerun.checks = untouched
    before, _ = rerun.run_all()
    least = least_right(before, len(images), tolerance)
    trials = halvings * checks
    for price in prices:
        rerun.checks = checks_at(tables, price)
        trials += 1
        if (right := rerun.run_all()[0]) >= least:
            return Placement(rerun.checks, before / len(images), right / len(images), trials)
    rerun.checks = untouched
    return Placement(untouched, before / len(images), before / len(images), trials)


@dataclass
class _Table:
    """What each choice of checks would do in each filter of a layer, over the images measured so far.

    Args:
        layer: the layer.
        choices: the checks of each, first position first; one that has nothing to do in a filter is at its end.
        saved: MACs, shape (choices, filters).
        harm: of the margins, same shape.
        measured: so many of the choices were.
    """

    layer: TerminatingConv2d
    choices: list[tuple[Check, ...]]
    saved: Tensor
    harm: Tensor
    measured: int = 0

    @classmethod
    def empty(cls, layer: TerminatingConv2d, choices: Sequence[tuple[Check, ...]]) -> "_Table":
        """Nothing measured."""
        zeros = torch.zeros(len(choices), layer.out_channels, dtype=torch.float64)
        return cls(layer, list(choices), zeros, zeros.clone())

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Counts the outputs of one batch of the layer's inputs, given the margins' gradient by them after ReLU."""
        if x.shape[1] != self.layer.in_channels or gradient.shape[1] != self.layer.out_channels:
            raise ConfigError("checks are placed per filter at budget 1.0: extract the sub-network first")
        for i, checks in enumerate(self.choices[self.measured :], self.measured):
            outcome = _outcome(self.layer, x, checks)
            # What a filter does not stop is emitted as it is. A threshold above zero may let a partial sum through.
            change = F.relu(outcome.emitted) - F.relu(outcome.full)
            self.harm[i] += (change * gradient).flatten(2).sum(2).abs().sum(0).cpu()
            self.saved[i] += outcome.saved().sum(0).cpu()

    def best(self, price: float) -> list[int]:
        """Every filter's best choice at a price of harm in MACs; -1 where none is worth it."""
        worth, best = (self.saved - price * self.harm).max(0)
        return torch.where(worth > 0, best, -1).tolist()

    def checks_at(self, price: float) -> tuple[Check, ...]:
        """Every filter's best choice at a price, as checks of the layer; those with nothing to do are left out."""
        terms, filters, best = self.layer.terms, self.layer.out_channels, self.best(price)
        slots = max(len(checks) for checks in self.choices)
        positions, thresholds = [[terms] * filters for _ in range(slots)], [[0.0] * filters for _ in range(slots)]
        taken = {
            number: [
                (check.positions(terms, terms, filters), check.thresholds(filters)) for check in self.choices[number]
            ]
            for number in set(best) - {-1}
        }
        for f, number in enumerate(best):
            checks = taken.get(number, [])
            for slot, (position, threshold) in enumerate(checks, slots - len(checks)):
                positions[slot][f], thresholds[slot][f] = position[f], threshold[f]
        joined = zip(positions, thresholds, strict=True)
        return tuple(Check(position=p, threshold=t) for p, t in joined if min(p) < terms)

    def add_earlier(self, candidates: Sequence[Check], price: float) -> None:
        """Adds choices: each candidate before the checks that a filter has at a price, if it comes before them."""
        terms, filters = self.layer.terms, self.layer.out_channels
        later = self.checks_at(price)
        if not later:
            return
        first = [min(p) for p in zip(*(c.positions(terms, terms, filters) for c in later), strict=True)]
        self.measured = len(self.choices)
        for candidate in candidates:
            pairs = zip(candidate.positions(terms, terms, filters), first, strict=True)
            early = [position if position < limit else terms for position, limit in pairs]
            if min(early) < terms:
                self.choices.append((Check(position=early, threshold=candidate.threshold), *later))
        more = torch.zeros(len(self.choices) - self.measured, filters, dtype=torch.float64)
        self.saved, self.harm = torch.cat([self.saved, more]), torch.cat([self.harm, more])


def checks_at(tables: dict[str, _Table], price: float) -> Checks:
    """The checks of all layers at a price."""
    return {path: table.checks_at(price) for path, table in tables.items()}


def _tolerated_prices(guide: Rerun, tables: dict[str, _Table], tolerance: float, halvings: int) -> list[float]:
    """The lowest price that the sample tolerates, and then higher ones."""
    least = least_right(guide.put_hardest_first(), len(guide.images), tolerance)
    worth = [table.saved[table.harm > 0] / table.harm[table.harm > 0] for table in tables.values()]
    ratios = torch.cat([w.flatten() for w in worth])
    if ratios.numel() == 0:
        return [1.0]
    # Above the greatest saving for a unit of harm, only harmless checks are taken. A filter may still change from one
    # check to another far below the least one.
    low, high = math.log(max(ratios.min().item(), 1e-9)) - 7, math.log(max(ratios.max().item(), 1e-9)) + 1
    top = high
    for _ in range(halvings):
        middle = (low + high) / 2
        guide.checks = checks_at(tables, math.exp(middle))
        if guide.run_within(least, math.inf) is not None:
            high = middle
        else:
            low = middle
    # What the sample just tolerates, all images may just not: a price little higher will often do.
    rises = [0.0, *(0.05 * 2**i for i in range(20))]
    return [math.exp(high + rise) for rise in rises if high + rise < top] + [math.exp(top)]


def _measure(net: nn.Module, some: tuple[Tensor, Tensor], tables: dict[str, _Table], batch_size: int) -> None:
    """Measures those choices of the tables that are not, on some images."""
    for x, y in zip(*(torch.split(part, batch_size) for part in some), strict=True):
        _measure_batch(net, x, y, tables)
    for table in tables.values():
        table.measured = len(table.choices)


def _measure_batch(net: nn.Module, images: Tensor, labels: Tensor, tables: dict[str, _Table]) -> None:
    with _recorded(tables) as calls, eval_mode(net), torch.enable_grad():
        scores = net(images)
        own = scores.gather(1, labels[:, None])[:, 0]
        others = scores.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
        outputs = [output for _, _, output in calls]
        gradients = torch.autograd.grad((own - others).sum(), outputs, allow_unused=True)
    with torch.no_grad():
        for (path, x, output), gradient in zip(calls, gradients, strict=True):
            tables[path].add(x, torch.zeros_like(output) if gradient is None else gradient)


@contextmanager
def _recorded(tables: dict[str, _Table]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Path, input and rectified output of every call of the layers inside the block."""
    calls: list[tuple[str, Tensor, Tensor]] = []

    def hook(path: str, inputs: Tensor, output: Tensor) -> Tensor:
        # Rectified here, so that the gradient is also known where the output is negative and a stop may let something
        # through; what is barely above zero passes the ReLU that follows. Layers before see the gradient as it is.
        rectified = F.relu(output) + torch.finfo(output.dtype).tiny
        calls.append((path, inputs.detach(), rectified))
        # What follows gets another tensor, since a ReLU in place would replace the one whose gradient is wanted.
        return rectified.clone()

    handles = [
        table.layer.register_forward_hook(lambda _, x, y, path=path: hook(path, x[0], y))
        for path, table in tables.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _outcome(layer: TerminatingConv2d, x: Tensor, checks: Sequence[Check]) -> Outcome:
    """What the layer would do with some checks."""
    seen: list[Outcome] = []
    before, layer.observer = layer.observer, seen.append
    try:
        layer.set_checks(checks)
        layer.forward(x)
    finally:
        layer.observer = before
        layer.set_checks([])
    return seen[0]
