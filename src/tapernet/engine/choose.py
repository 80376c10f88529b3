"""Which layers pay for stopping early on this machine, by measured time."""

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from tapernet.engine.engine import Engine
from tapernet.nn.net import Budget
from tapernet.nn.terminating import DENSE, TERMINATING

ROUNDS = 9
WORTH = 0.95
"""Share of its dense time below which a layer stops early: a smaller gain is within the timing's error, and checks of
rounded sums take memory."""


def choose(
    build: Callable[[Mapping[str, str]], Engine],
    paths: Sequence[str],
    images: Tensor,
    budgets: Sequence[Budget],
    decided: Mapping[str, str],
) -> dict[str, str]:
    """For each layer, "terminating" if that is clearly the faster, else "dense".

    Of two engines, one with all layers of each kind, the times are added up over the budgets.

    Args:
        build: makes an engine with given choices.
        paths: layers to decide.
        images: a batch.
        budgets: to time at.
        decided: choices that stand.
    """
    if not paths:
        return {}
    kinds = (DENSE, TERMINATING)
    engines = [build({**decided, **dict.fromkeys(paths, kind)}) for kind in kinds]
    times = {kind: dict.fromkeys(paths, 0.0) for kind in kinds}
    for budget in budgets:
        for kind, found in zip(kinds, fastest_times(engines, [images], budget), strict=True):
            for path in paths:
                times[kind][path] += found.get(path, 0.0)
    return {p: TERMINATING if times[TERMINATING][p] < WORTH * times[DENSE][p] else DENSE for p in paths}


def fastest_times(engines: Sequence[Engine], batches: Sequence[Tensor], budget: Budget) -> list[dict[str, float]]:
    """Seconds of each operation over all batches, by its name, for each engine.

    The engines take turns. Of an operation's turns on a batch the fastest counts, since the others were disturbed.
    """
    least: list[dict[str, list[float]]] = [{} for _ in engines]
    for _ in range(ROUNDS):
        for engine, fastest in zip(engines, least, strict=True):
            for number, batch in enumerate(batches):
                for name, seconds in engine.times(batch, budget).items():
                    of_batches = fastest.setdefault(name, [math.inf] * len(batches))
                    of_batches[number] = min(of_batches[number], seconds)
    return [{name: sum(of_batches) for name, of_batches in fastest.items()} for fastest in least]
