"""Measured time of each layer at several widths: one table, from which the time of any widths is foretold."""

import random
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from tapernet.convert.calibrate import standing_in
from tapernet.convert.extract import extract
from tapernet.errors import ConfigError
from tapernet.files import read_json, reading, write_json
from tapernet.measure.latency import using_threads
from tapernet.nn.net import TaperedNet
from tapernet.nn.widths import layer_sides

EVEN = (10, 25, 50, 75, 100)
"""Percents at which all layers are measured together; the other widths are drawn."""


@dataclass(frozen=True)
class Sample:
    """One layer at one width.

    Args:
        inputs: features read.
        outputs: features written.
        milliseconds: median time from its start to the start of the next layer, so that the norm, the activation and
            the pooling after it are in it.
    """

    inputs: int
    outputs: int
    milliseconds: float


@dataclass(frozen=True)
class LatencyTable:
    """Samples of each layer that mixes channels, by its path; of the machine that measured them."""

    layers: dict[str, tuple[Sample, ...]]

    def save(self, path: str | Path) -> None:
        """Writes a JSON file, atomically."""
        write_json(path, asdict(self))

    @staticmethod
    def load(path: str | Path) -> "LatencyTable":
        """Reads what `save` wrote; raises FileError if it is something else."""
        value = read_json(path)
        with reading(path, "table of latencies"):
            return LatencyTable({n: tuple(Sample(**s) for s in samples) for n, samples in value["layers"].items()})


def measure_layers(
    net: TaperedNet, *, widths: int = 24, rounds: int = 15, threads: int = 1, seed: int = 0
) -> LatencyTable:
    """Times every layer of extracted sub-networks of `net`, one image at a time.

    Args:
        net: the network, with one profile; batch-norm statistics are not needed.
        widths: sub-networks measured: five of even width, and others whose layers' widths are drawn one by one.
        rounds: passes of each sub-network, of which the median counts.
        threads: that torch may use within an operation.
        seed: of the drawn widths.

    Raises:
        ConfigError: fewer widths than `EVEN` has; a network with several profiles.
    """
    if widths < len(EVEN):
        raise ConfigError(f"at least {len(EVEN)} widths are needed to tell how a layer's time grows, not {widths}")
    rng, sides = random.Random(seed), layer_sides(net)
    found: dict[str, list[Sample]] = {path: [] for path in sides}
    image = torch.zeros(1, *net.input_shape, device=next(net.parameters()).device)
    for number in range(widths):
        percents = [EVEN[number] if number < len(EVEN) else rng.randint(5, 100) for _ in net.groups]
        budget = net.budget_of(percents)
        with net.at(budget), standing_in(net):
            kept = net.kept_channels()
            small = extract(net, budget).eval()
        with using_threads(threads):
            for path, ms in _segments(small, image, sides, rounds).items():
                side = sides[path]
                found[path].append(Sample(side.inputs.features(kept), side.outputs.features(kept), ms))
    return LatencyTable({path: tuple(samples) for path, samples in found.items()})


def _segments(net: nn.Module, image: Tensor, paths: Iterable[str], rounds: int) -> dict[str, float]:
    """Median milliseconds from the start of each layer to the start of the one that runs next, or to the end."""
    events: list[tuple[str, float]] = []
    for path in paths:
        net.get_submodule(path).register_forward_pre_hook(lambda m, x, path=path: events.append(_now(path)))
    taken: dict[str, list[float]] = {path: [] for path in paths}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            events.clear()
            start = time.perf_counter()
            net(image)
            marks = [(events[0][0], start), *events[1:], ("", time.perf_counter())]
            spent = dict.fromkeys(taken, 0.0)  # a shared layer runs more than once
            for (path, begin), (_, end) in pairwise(marks):
                spent[path] += (end - begin) * 1e3
            if turn:  # the first turn warms up
                for path, ms in spent.items():
                    taken[path].append(ms)
    return {path: statistics.median(ms) for path, ms in taken.items()}


def _now(path: str) -> tuple[str, float]:
    return path, time.perf_counter()
