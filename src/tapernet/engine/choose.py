"""Which layers pay for stopping early on this machine, by measured time."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from tapernet.engine.engine import Engine
from tapernet.nn.net import Budget
from tapernet.nn.terminating import DENSE, TERMINATING, TerminatingConv2d

ROUNDS = 9


def choose(
    build: Callable[[Mapping[str, str]], Engine],
    paths: Sequence[str],
    images: Tensor,
    budgets: Sequence[Budget],
    decided: Mapping[str, str],
) -> dict[str, str]:
    """For each layer, the faster of "dense" and "terminating".

    Two engines, one with all layers of each kind, take turns on the images; of a layer's turns the fastest counts,
    since the others were disturbed. The times are added up over the budgets.

    Args:
        build: makes an engine with given choices.
        paths: layers to decide.
        images: a batch.
        budgets: to time at.
        decided: choices that stand.
    """
    if not paths:
        return {}
    engines = {kind: build({**decided, **dict.fromkeys(paths, kind)}) for kind in (DENSE, TERMINATING)}
    times: dict[str, dict[str, float]] = {kind: dict.fromkeys(paths, 0.0) for kind in engines}
    for budget in budgets:
        turns: dict[str, list[dict[str, float]]] = {kind: [] for kind in engines}
        for turn in range(ROUNDS + 1):
            for kind, engine in engines.items():
                found = engine.times(images, budget)
                if turn:  # the first turn warms up
                    turns[kind].append(found)
        for kind, of_turns in turns.items():
            for path in paths:
                times[kind][path] += min(t.get(path, 0.0) for t in of_turns)
    return {path: min(engines, key=lambda kind: times[kind][path]) for path in paths}


def remembered(layers: Mapping[str, TerminatingConv2d], kernels: str) -> tuple[dict[str, str], list[str]]:
    """What the layers remember of these kernels, and a line for each other instruction set whose choices do not count.

    Args:
        layers: those to decide.
        kernels: the instruction set of the engine, or "torch".
    """
    chosen = {path: layer.choices[kernels] for path, layer in layers.items() if kernels in layer.choices}
    others: dict[str, list[str]] = {}
    for path, layer in layers.items():
        for other in sorted(layer.choices) if path not in chosen else ():
            others.setdefault(other, []).append(path)
    notes = [f"choices for {other}, not for {kernels}, so not used: {', '.join(p)}" for other, p in others.items()]
    return chosen, notes
