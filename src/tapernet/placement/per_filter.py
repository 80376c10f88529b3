"""A check for each filter: all filters at once trade what they save against what they are expected to harm."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
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
) -> Placement:
    """Each filter takes the check with the greatest saving - price * harm; the lowest tolerated price is searched.

    The harm of a check is what it is expected to take from the images' margins, to first order: the sum over the
    stopped outputs of the output times the margin's gradient by it, whose size is summed over the images. The margin
    is the label's score over the log-sum of the others. The gradient is zero where ReLU or max pooling drop the output
    anyway. One pass over a sample measures savings and harms of all checks in all filters; each price then costs one
    run of the sample.

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

    Raises:
        ConfigError: a dial below 1.0.
    """
    some = spread_sample(images, labels, sample)
    candidates = [Check(share=share, threshold=threshold) for share, threshold in product(shares, thresholds)]
    tables = {path: _Table.empty(layer, candidates) for path, layer in terminating_layers(net).items()}
    for x, y in zip(torch.split(some[0], batch_size), torch.split(some[1], batch_size), strict=True):
        _measure(net, x, y, tables)
    guide = Rerun(net, *some, batch_size=batch_size, memory=0)
    untouched = guide.checks
    prices = _tolerated_prices(guide, tables, tolerance, halvings)
    rerun = Rerun(net, images, labels, batch_size=batch_size, memory=0)
    rerun.checks = untouched
    before, _ = rerun.run_all()
    least = least_right(before, len(images), tolerance)
    trials = halvings
    for price in prices:
        rerun.checks = checks_at(tables, price)
        trials += 1
        if (right := rerun.run_all()[0]) >= least:
            return Placement(rerun.checks, before / len(images), right / len(images), trials)
    rerun.checks = untouched
    return Placement(untouched, before / len(images), before / len(images), trials)


@dataclass
class _Table:
    """What each check would do in each filter of a layer, over the images measured so far.

    Args:
        layer: the layer.
        candidates: the checks.
        saved: MACs, shape (candidates, filters).
        harm: of the margins, same shape.
    """

    layer: TerminatingConv2d
    candidates: Sequence[Check]
    saved: Tensor
    harm: Tensor

    @classmethod
    def empty(cls, layer: TerminatingConv2d, candidates: Sequence[Check]) -> "_Table":
        """Nothing measured."""
        zeros = torch.zeros(len(candidates), layer.out_channels, dtype=torch.float64)
        return cls(layer, candidates, zeros, zeros.clone())

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Counts the outputs of one batch of the layer's inputs, given the margins' gradient by them."""
        if x.shape[1] != self.layer.in_channels or gradient.shape[1] != self.layer.out_channels:
            raise ConfigError("checks are placed per filter at budget 1.0: extract the sub-network first")
        for i, check in enumerate(self.candidates):
            outcome = _outcome(self.layer, x, check)
            lost = (outcome.full * gradient * outcome.stopped).flatten(2).sum(2)
            self.harm[i] += lost.abs().sum(0).cpu()
            self.saved[i] += outcome.saved().sum(0).cpu()

    def check_at(self, price: float) -> tuple[Check, ...]:
        """Every filter's best check at a price of harm in MACs; a position at the end where none is worth it."""
        worth, best = (self.saved - price * self.harm).max(0)
        terms, filters = self.layer.terms, self.layer.out_channels
        positions = [check.positions(terms, terms, filters)[0] for check in self.candidates]
        thresholds = [check.thresholds(filters)[0] for check in self.candidates]
        taken = [(positions[b], thresholds[b]) if w > 0 else (terms, 0.0) for w, b in zip(worth, best, strict=True)]
        if all(position == terms for position, _ in taken):
            return ()
        return (Check(position=[p for p, _ in taken], threshold=[t for _, t in taken]),)


def checks_at(tables: dict[str, _Table], price: float) -> Checks:
    """The checks of all layers at a price."""
    return {path: table.check_at(price) for path, table in tables.items()}


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


def _measure(net: nn.Module, images: Tensor, labels: Tensor, tables: dict[str, _Table]) -> None:
    """Adds one batch to the tables."""
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
    """Path, input and output of every call of the layers inside the block."""
    calls: list[tuple[str, Tensor, Tensor]] = []

    def hook(path: str, inputs: Tensor, output: Tensor) -> Tensor:
        calls.append((path, inputs.detach(), output))
        # What follows gets another tensor, since a ReLU in place would replace the one whose gradient is wanted.
        return output.clone()

    handles = [
        table.layer.register_forward_hook(lambda _, x, y, path=path: hook(path, x[0], y))
        for path, table in tables.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _outcome(layer: TerminatingConv2d, x: Tensor, check: Check) -> Outcome:
    """What the layer would do with one check."""
    seen: list[Outcome] = []
    before, layer.observer = layer.observer, seen.append
    try:
        layer.set_checks([check])
        layer.forward(x)
    finally:
        layer.observer = before
        layer.set_checks([])
    return seen[0]
