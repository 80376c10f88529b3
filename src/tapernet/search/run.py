"""`search_budget`: a search over the widths of channel groups, led by validation accuracy."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from tapernet.budget import TEN_BUDGETS, check_budgets, to_percent
from tapernet.convert.calibrate import calibrate, calibrated, few_batches, standing_in
from tapernet.convert.extract import extract
from tapernet.data import ImageData
from tapernet.errors import ConfigError, DataError
from tapernet.measure.accuracy import accuracies
from tapernet.measure.latency import spreads
from tapernet.measure.layer_latency import LatencyTable, measure_layers
from tapernet.nn.net import TaperedNet, check_name
from tapernet.search.cost import Cost, LatencyCost, MacCost
from tapernet.search.result import Candidate, SearchResult
from tapernet.search.space import Choice, Space

PARENTS = 8
"""The most accurate choices so far, from which the next one is made."""
CALIBRATION_IMAGES, CALIBRATION_BATCH = 512, 128
SLOWEST = 1.5
"""How far foretold times are scaled up for a search by time that ends over its limit."""


def search_budget(
    net: TaperedNet,
    val: ImageData,
    *,
    max_macs: float | None = None,
    max_ms: float | None = None,
    name: str | None = None,
    train: ImageData | None = None,
    trials: int = 100,
    shares: Iterable[float] = TEN_BUDGETS,
    held_back: float = 0.5,
    table: LatencyTable | None = None,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> SearchResult:
    """The widths of the layers that are most accurate under a limit, found by trying choices on validation images.

    The search starts from uniform width and from the choices that it has tried takes a good one, moves channels from
    some groups to others, and tries that. Where the limit allows no more than `trials` choices, all are tried. The
    same seed and, for time, the same table give the same choices in the same order.

    By time, a choice's cost is foretold from measured layers (`tapernet.measure.layer_latency`); then the extracted
    network is timed, and if its median is over the limit the foretold times are scaled up and the search goes on from
    what it knows, a few times at most. `SearchResult.within_limit` tells how it ended.

    Args:
        net: the network, with one profile. Nothing but the named budget, with its batch-norm statistics, is added.
        val: validation images, which no training saw. The test set has no place here.
        max_macs: most MACs of an image.
        max_ms: or most milliseconds of an image on this machine, on one thread.
        name: under which the network keeps the best budget, as `TaperedNet.name_budget` does; None to keep nothing.
        train: a network with batch-norm measures the statistics of every choice on its first 512 images.
        trials: most choices to try.
        shares: that a group of layers may have; the uniform budget's is always one of them.
        held_back: share of `val` that the search does not see, in [0, 1): it confirms that what was found is better
            than uniform width, which the images that chose it cannot.
        table: of layer latencies, measured before; by default they are measured first.
        seed: of the search and of what is held back.
        say: told of each choice that is better than those before.

    Raises:
        ConfigError: both limits or neither, one that the smallest choice exceeds, a network with several profiles, with
            batch-norm but without `train`, bad shares or trials, or a name that cannot be one.
        DataError: images that do not fit the network.
    """
    _check(net, val, train, max_macs, max_ms, trials, held_back)
    if name is not None:
        check_name(name)
    percents = [to_percent(share) for share in check_budgets(shares)]
    seen, kept_back = val.split(held_back, seed) if held_back else (val, None)
    batches = [] if train is None else few_batches(train.as_float(), CALIBRATION_IMAGES, CALIBRATION_BATCH)
    judge = _Judge(net, seen, kept_back, batches)
    macs = MacCost(net)
    if max_macs is not None:
        search = _Search(net, judge, macs, max_macs, percents, trials, random.Random(seed), say)
        found, uniform = (judge.confirm(candidate) for candidate in search.go(macs))
        result = SearchResult(found, uniform, len(judge.known), search.exhaustive, max_macs=max_macs)
    else:
        assert max_ms is not None
        cost = LatencyCost(net, table or measure_layers(net, seed=seed))
        result = _by_time(net, judge, cost, macs, max_ms, percents, trials, seed, say)
    if name is not None:
        _keep(net, name, result.best.budget, judge.batches)
    return result


def _keep(net: TaperedNet, name: str, budget: Mapping[str, float], batches: list[Tensor]) -> None:
    """Names the budget, and measures its statistics unless the network has them."""
    net.name_budget(name, budget)
    with net.at(name):
        lacking = any(not layer.stored(layer.key) for layer in net.batch_norms())
    if lacking:
        calibrate(net, batches, [name])


def _check(
    net: TaperedNet, val: ImageData, train: ImageData | None, max_macs: float | None, max_ms: float | None, trials: int,
    held_back: float,
) -> None:  # fmt: skip
    if (max_macs is None) == (max_ms is None):
        raise ConfigError("give one limit: max_macs or max_ms")
    limit = max_ms if max_macs is None else max_macs
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not (math.isfinite(limit) and limit > 0):
        raise ConfigError(f"a limit is a number above 0, not {limit!r}")
    if len(net.ranges) > 1:
        raise ConfigError("a network with several profiles takes one budget for all its layers: there is no search")
    if net.batch_norms() and train is None:
        raise ConfigError("the network has batch-norm, whose statistics differ for every choice: give train")
    if trials < 1:
        raise ConfigError(f"trials is at least 1, not {trials}")
    if not 0 <= held_back < 1:
        raise ConfigError(f"held_back is a share in [0, 1), not {held_back!r}")
    for data in (val, train):
        if data is not None and data.shape != net.input_shape:
            raise DataError(f"the images have shape {data.shape}, but the network takes {net.input_shape}")


@dataclass
class _Judge:
    """Measures the accuracy of choices, each once."""

    net: TaperedNet
    seen: ImageData
    kept_back: ImageData | None
    batches: list[Tensor]
    known: dict[tuple[int, ...], float] = field(default_factory=dict)

    def accuracy(self, percents: list[int], kept: tuple[int, ...]) -> float:
        """On the images that the search sees."""
        if kept not in self.known:
            self.known[kept] = self._on(self.seen, self.net.budget_of(percents))
        return self.known[kept]

    def confirm(self, candidate: Candidate) -> Candidate:
        """With its accuracy on the images held back."""
        if self.kept_back is None:
            return candidate
        return replace(candidate, confirmed=self._on(self.kept_back, candidate.budget))

    def time(self, candidate: Candidate) -> Candidate:
        """With the measured time of its extracted network."""
        with self.net.at(candidate.budget), standing_in(self.net):
            small = extract(self.net, candidate.budget)
        return replace(candidate, latency=spreads(small, self.seen.as_float()[:1], [1.0], rounds=31)[0])

    def _on(self, data: ImageData, budget: Mapping[str, float]) -> float:
        with calibrated(self.net, self.batches, budget):
            return accuracies(self.net, data.as_float(), data.labels, [budget])[0]


class _Search:
    """One search under one limit."""

    def __init__(
        self, net: TaperedNet, judge: _Judge, cost: Cost, limit: float, percents: list[int], trials: int,
        rng: random.Random, say: Callable[[str], None] | None,
    ) -> None:  # fmt: skip
        self.net, self.judge, self.trials, self.rng, self.say = net, judge, trials, rng, say
        even = Space(net, range(1, 101), cost, limit)
        least = min(percents)
        smallest = even.cost(even.kept(even.even(least)))
        if smallest > limit:
            raise ConfigError(f"the limit {limit:,.10g} is below the smallest choice, {least}% of every layer, "
                              f"which costs {smallest:,.10g}")  # fmt: skip
        self.uniform = max(p for p in range(1, 101) if even.allows(even.even(p)))
        self.space = Space(net, sorted({*percents, self.uniform}), cost, limit)
        self.tried: dict[Choice, float] = {}
        everything = self.space.all(trials)
        self.exhaustive = everything is not None
        self.everything = everything or []

    def go(self, macs: Cost) -> tuple[Candidate, Candidate]:
        """The best candidate, and uniform width."""
        start = self.space.even(self.uniform)
        self._try(start)
        for choice in self.everything if self.exhaustive else self._evolving():
            self._try(choice)
        # Of equals the one that was tried first: uniform width, if it is among them.
        best = max(self.tried, key=lambda choice: self.tried[choice])
        found, uniform = (self._candidate(choice, macs) for choice in (best, start))
        return found, replace(uniform, budget={"*": self.uniform / 100})

    def _try(self, choice: Choice) -> None:
        if choice in self.tried:
            return
        best = max(self.tried.values(), default=-1.0)
        kept = tuple(self.space.kept(choice))
        self.tried[choice] = self.judge.accuracy(self.space.percents(choice), kept)
        if self.say is not None and self.tried[choice] > best:
            cost = self.space.cost(kept)
            self.say(f"choice {len(self.tried)}: accuracy {self.tried[choice]:.4f}, cost {cost:,.6g}")

    def _evolving(self) -> Iterator[Choice]:
        """New choices until `trials` are tried, or until nothing new turns up for long."""
        fruitless = 0
        while len(self.tried) < self.trials and fruitless < 200:
            best = sorted(self.tried, key=lambda choice: -self.tried[choice])[:PARENTS]
            # The better of two drawn, so that good parents come more often.
            parent = best[min(self.rng.randrange(len(best)) for _ in range(2))]
            choice = self.space.moved(parent, self.rng)
            fruitless = fruitless + 1 if choice in self.tried else 0
            yield choice

    def _candidate(self, choice: Choice, macs: Cost) -> Candidate:
        kept = self.space.kept(choice)
        return Candidate(self.net.budget_of(self.space.percents(choice)), int(macs(kept)), self.tried[choice])


def _by_time(
    net: TaperedNet, judge: _Judge, cost: LatencyCost, macs: Cost, limit: float, percents: list[int], trials: int,
    seed: int, say: Callable[[str], None] | None,
) -> SearchResult:  # fmt: skip
    """Searches by foretold time until the measured time keeps the limit, or nothing is left to try."""
    factor, result = 1.0, None
    while True:
        try:
            search = _Search(net, judge, _scaled(cost, factor), limit, percents, trials, random.Random(seed), say)
        except ConfigError:
            if result is None:
                raise
            return result  # no choice is left that is foretold to be within the limit
        found, uniform = (judge.confirm(judge.time(candidate)) for candidate in search.go(macs))
        result = SearchResult(found, uniform, len(judge.known), search.exhaustive, max_ms=limit)
        if result.within_limit or factor >= SLOWEST:
            return result
        assert result.best.latency is not None
        factor *= max(1.05, result.best.latency.median / limit)


def _scaled(cost: Cost, factor: float) -> Cost:
    return lambda kept: factor * cost(kept)
