"""Measured time of a network at its budgets."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tapernet.nn.mode import eval_mode
from tapernet.nn.net import Budget, at


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass over several turns.

    Args:
        median: of the turns.
        low: the first quartile.
        high: the third quartile.
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(milliseconds: Sequence[float]) -> "Latency":
        """Of what at least two turns took."""
        low, median, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
        return Latency(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3f} ms ({self.low:.3f} to {self.high:.3f})"


def latencies(
    net: nn.Module, images: Tensor, budgets: Sequence[Budget], *, threads: int = 1, rounds: int = 15, calls: int = 10
) -> list[float]:
    """Median milliseconds of one forward pass, batch as given, for each budget; see `spreads`."""
    return [s.median for s in spreads(net, images, budgets, threads=threads, rounds=rounds, calls=calls)]


def spreads(
    net: nn.Module, images: Tensor, budgets: Sequence[Budget], *, threads: int = 1, rounds: int = 15, calls: int = 10
) -> list[Latency]:
    """Milliseconds of one forward pass, batch as given, for each budget.

    Args:
        net: the network, run as it is by torch (a `TaperedNet` with its dial, not an extracted sub-network).
        images: one batch.
        budgets: what to time.
        threads: that torch may use within an operation.
        rounds: turns that each budget gets, at least 2.
        calls: passes in one turn; the turn's time is divided by it.
    """

    def passes(budget: Budget) -> Callable[[], None]:
        def action() -> None:
            with at(net, budget):
                for _ in range(calls):
                    net(images)

        return action

    with eval_mode(net):
        return in_turns([passes(budget) for budget in budgets], rounds, [calls] * len(budgets), threads=threads)


def in_turns(
    actions: Sequence[Callable[[], None]], rounds: int, each: Sequence[int], *, threads: int = 1
) -> list[Latency]:
    """Times actions that take turns, so that a machine that slows down for a while slows all of them.

    Args:
        actions: what to time.
        rounds: turns that each gets, at least 2, after one that warms up.
        each: what the time of an action is divided by.
        threads: that torch may use within an operation.
    """
    times: list[list[float]] = [[] for _ in actions]
    with using_threads(threads), torch.inference_mode():
        for turn in range(rounds + 1):
            for action, taken, parts in zip(actions, times, each, strict=True):
                start = time.perf_counter()
                action()
                if turn:
                    taken.append((time.perf_counter() - start) / parts * 1e3)
    return [Latency.of(t) for t in times]


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Lets torch use this many threads within an operation for the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
