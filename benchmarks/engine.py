"""Speed of the native engine, each figure a ratio of things timed in turns in this one run. Wants a quiet machine.

python benchmarks/engine.py --output FOLDER
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import tapernet as tn
from tapernet.commands.console import show
from tapernet.engine.race import race
from tapernet.experiment.common import hardware
from tapernet.files import write_json
from tapernet.measure.plot import save_figure
from tapernet.nn.terminating import terminating_layers

IMAGE = (3, 32, 32)


def tapered(network: str) -> tn.TaperedNet:
    """A network of the zoo with a dial and random weights."""
    model = tn.zoo.create(network).eval()
    return tn.taper(model, torch.zeros(1, *IMAGE), profile="all-one").eval()


def runtimes(networks: list[str], batches: list[int], rounds: int, folder: Path | None) -> None:
    """The engine and the other runtimes at three budgets."""
    for network in networks:
        for batch in batches:
            result = race(tapered(network), torch.randn(batch, *IMAGE), [0.5, 0.2], rounds=rounds, name=network,
                          machine=hardware())  # fmt: skip
            show(result.table())
            if folder is not None:
                path = folder / f"{network}-batch{batch}"
                write_json(path.with_suffix(".json"), result.as_dict())
                save_figure(result.plot(), path.with_suffix(".png"))


def switching(network: str) -> None:
    """Microseconds of a turn of the dial: the first time at a budget, and later."""
    engine = tn.compile(tapered(network))
    budgets = [percent / 100 for percent in range(1, 101)]
    for name in ("first", "later"):
        taken = []
        for budget in budgets:
            start = time.perf_counter()
            engine.budget = budget
            taken.append((time.perf_counter() - start) * 1e6)
        print(f"{network}, switching budgets, {name}: "
              f"median {statistics.median(taken):.1f} us, most {max(taken):.1f} us")  # fmt: skip


def threads(network: str, batch: int, rounds: int) -> None:
    """How many times faster two threads are than one."""
    net, images = tapered(network), torch.randn(batch, *IMAGE)
    one, two = (tn.compile(net, threads=count) for count in (1, 2))
    ratios = in_turns(lambda: one(images), lambda: two(images), rounds)
    print(f"{network}, batch {batch}: two threads {statistics.median(ratios):.2f} times as fast as one "
          f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


def terminating(network: str, batch: int, share: float, rounds: int) -> None:
    """A terminated network with untrained checks: as chosen by time, against the same engine without any stopping."""
    images = torch.rand(batch, *IMAGE)
    net = tn.terminate(tn.zoo.create(network).eval(), images).eval()
    for layer in terminating_layers(net).values():
        layer.set_checks([tn.Check(share=share)])
    chosen = tn.compile(net, images, calibration=images)
    dense = tn.compile(net, images, choices=dict.fromkeys(chosen.choices, "dense"))
    ratios = in_turns(lambda: dense(images), lambda: chosen(images), rounds)
    stopping = [path for path, choice in chosen.choices.items() if choice == "terminating"]
    print(f"{network}, batch {batch}, checks at {share:.0%}: {statistics.median(ratios):.2f} times the dense engine "
          f"({min(ratios):.2f} to {max(ratios):.2f}); stopping in {', '.join(stopping) or 'no layer'}")  # fmt: skip


def in_turns(first: Callable[[], object], second: Callable[[], object], rounds: int) -> list[float]:
    """Time of first / second in each round."""
    found = []
    for turn in range(rounds + 1):
        taken = []
        for call in (first, second):
            start = time.perf_counter()
            for _ in range(3):
                call()
            taken.append(time.perf_counter() - start)
        if turn:  # the first turn warms up
            found.append(taken[0] / taken[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["c10net", "nin", "vgg16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="folder of JSON files and plots")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for network in options.networks:
        switching(network)
        threads(network, 32, options.rounds)
        terminating(network, 8, 0.05, options.rounds)
    runtimes(options.networks, options.batches, options.rounds, options.output)


if __name__ == "__main__":
    main()
