"""Measured time of a network at its budgets."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tapernet.nn.net import at


def latencies(
    net: nn.Module, images: Tensor, budgets: Sequence[float], *, threads: int = 1, rounds: int = 15, calls: int = 10
) -> list[float]:
    """Median milliseconds of one forward pass, batch as given, for each budget.

    The budgets take turns, so that a machine that slows down for a while slows all of them.

    Args:
        net: the network, run as it is by torch (a `TaperedNet` with its dial, not an extracted sub-network).
        images: one batch.
        budgets: what to time.
        threads: that torch may use within an operation.
        rounds: turns that each budget gets.
        calls: passes in one turn; the turn's time is divided by it.
    """
    times: list[list[float]] = [[] for _ in budgets]
    training = net.training
    net.eval()
    try:
        with _threads(threads), torch.inference_mode():
            for turn in range(rounds + 1):
                for budget, taken in zip(budgets, times, strict=True):
                    with at(net, budget):
                        start = time.perf_counter()
                        for _ in range(calls):
                            net(images)
                        if turn:  # the first turn warms up
                            taken.append((time.perf_counter() - start) / calls)
    finally:
        net.train(training)
    return [statistics.median(t) * 1e3 for t in times]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
