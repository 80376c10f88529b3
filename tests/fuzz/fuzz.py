"""Draws networks and compares the engine, `taper` and `extract` with torch: `make fuzz MINUTES=60`.

A failure is printed as a script. `--seed` starts at a given seed, `--count 1` runs that one alone.
"""

import argparse
import copy
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from graphs import PRELUDE, draw
from torch import Tensor, nn

import tapernet as tn
from tapernet.engine.native import extension
from tapernet.errors import TapernetError
from tapernet.nn.net import at

TOLERANCE = 1e-5
"""Of the largest output."""
NOISE = 5e-7
"""Of each weight and input, to see how much rounding may change the output."""
WORST = 1e-2
"""Where rounding alone moves outputs by more than this share, nothing can be said of them."""


@dataclass(frozen=True)
class Case:
    """A network with its budgets and inputs.

    Args:
        seed: what it was drawn from.
        model: text that defines `model` and `example`.
        stages: texts that each define what the engine is given (`net`, `budgets`, `choices`, `inputs`), and
            `reference`; one that is refused is left out.
    """

    seed: int
    model: str
    stages: list[str]

    @property
    def script(self) -> str:
        """A program that shows the differences."""
        return "\n".join([self.model, *self.stages, EPILOGUE])


EPILOGUE = """
for kernels in ("auto", "portable"):
    engine = tn.compile(net, example, kernels=kernels, choices=choices)
    for budget in budgets:
        with at(net, budget), at(reference, budget), torch.no_grad():
            for x in inputs:
                want = reference(copy.deepcopy(x))
                found = engine(copy.deepcopy(x), budget=budget)
                print(kernels, budget, tuple(x.shape), float((found - want).abs().max() if len(x) else 0), want.shape)
"""


def case(seed: int, most: int = 1000) -> Case:
    """The case of a seed, cut to its first operations."""
    network, shape, wild = draw(seed, most)
    r = random.Random(seed + 1)
    subject = r.choice(["plain"] * (9 if wild else 2) + ["tapered"] * 4 + ["terminated"] * 2 + ["both"] * 2)
    sizes = ", ".join(map(str, shape))
    model = [f"torch.manual_seed({seed})", f"model = settle(Net(), {seed})",
             f"example = torch.randn({r.choice([1, 2, 3])}, {sizes})"]  # fmt: skip
    stages = [["torch.set_grad_enabled(False)", "net = reference = model", "budgets, choices = [1.0], {}"]]
    stages += [tapering(r, seed)] if subject in ("tapered", "both") else []
    stages += [terminating(r)] if subject in ("terminated", "both") else []
    stages += [inputs(r, shape)]
    return Case(seed, PRELUDE + network + "\n".join(model), ["\n".join(stage) for stage in stages])


PROFILES = ["'all-one'"] * 3 + [
    "'linear'", "'linear'", "'harmonic'", "'half-exponential'", "'trainable'", "{0.4: 'linear', 1.0: 'all-one'}",
    "{0.3: 'all-one', 0.6: 'harmonic', 1.0: 'linear'}",
]  # fmt: skip


def tapering(r: random.Random, seed: int) -> list[str]:
    profile = r.choice(PROFILES)
    lines = [
        f"net = reference = tn.taper(model, example, profile={profile}, multiple={r.choice([1, 1, 1, 2, 4])}).eval()",
        f"budgets = {[1.0, *r.sample([0.01, 0.1, 0.25, 0.33, 0.4, 0.5, 0.66, 0.9], 3)]}",
    ]
    if "{" not in profile and r.random() < 0.6:
        lines += [
            f"r = random.Random({seed})",
            "share = lambda: {g.layers[0]: r.choice([0.1, 0.3, 0.5, 0.8, 1.0]) for g in net.channel_groups}",
            "net.name_budget('mixed', share())",
            "budgets += ['mixed', share()]",
        ]
    if profile == "'all-one'":
        lines.insert(1, "assert torch.equal(net(example.clone()), model(example.clone())), 'not the model at 100%'")
    return [*lines, "tn.calibrate(net, [torch.randn(4, *example.shape[1:])], budgets)", f"settle(net, {seed + 2})"]


def terminating(r: random.Random) -> list[str]:
    options = r.choice(["", "", "bias_first=True", "gradient='gated'", "order='expected'"])
    share = [round(r.uniform(0.03, 0.6), 2) for _ in range(2)]
    thresholds = r.choice(["0.0", "0.0", "-0.1", "0.05", "[i % 3 / 10 - 0.1 for i in range(layer.out_channels)]"])
    checks = [
        [f"tn.Check(share={share[0]}, threshold={thresholds})"],
        [f"tn.Check(share={min(share)}, threshold={thresholds})", f"tn.Check(share={max(share) + 0.2:.2f})"],
        ["tn.Check(position=[1 + i % layer.terms for i in range(layer.out_channels)])"],
    ]
    return [
        f"net = tn.terminate(net, example, {options}).eval()",
        "layers = terminating_layers(inner(net))",
        "for i, (path, layer) in enumerate(layers.items()):",
        "    layer.input_mean.copy_(torch.rand(layer.in_channels) + 0.1)",
        f"    layer.set_checks([{', '.join(r.choice(checks))}])",
        f"    if i % 3 == {r.randint(0, 5)}:",
        "        choices[path] = 'dense'",
        "reference = copy.deepcopy(net)",
        "for path in choices:",
        "    terminating_layers(inner(reference))[path].set_checks([])",
    ]


def inputs(r: random.Random, shape: tuple[int, ...]) -> list[str]:
    """Batches of several sizes, and of several ways to lie in memory."""
    sizes = ", ".join(map(str, shape))
    kinds = [f"torch.randn(1, {sizes})", f"torch.randn(7, {sizes})", f"torch.randn(0, {sizes})"]
    ways = [f"torch.randn(14, {sizes})[::2]", f"torch.randn(1, {sizes}).expand(3, {', '.join(['-1'] * len(shape))})",
            f"torch._neg_view(torch.randn(3, {sizes}))"]  # fmt: skip
    if len(shape) == 3:
        c, h, w = shape
        ways += [f"torch.randn(3, {sizes}).contiguous(memory_format=torch.channels_last)",
                 f"torch.randn(3, {c}, {h}, {2 * w})[..., ::2]", f"torch.randn(3, {c}, {w}, {h}).transpose(2, 3)",
                 f"torch.randn(2, {c}, {h + 3}, {w + 2})"]  # fmt: skip
    return [f"inputs = [{', '.join([*kinds, *r.sample(ways, 2)])}]"]


class Failure(Exception):
    """A difference from torch, or an error that is none of the library's own."""


def run(case: Case, kernels: list[str]) -> list[str]:
    """Compares; returns what was refused, and "right", or "undecided" where rounding decides too much.

    Raises:
        Failure: torch gives something else.
    """
    space: dict[str, Any] = {}
    with torch.no_grad():
        try:
            exec(compile(case.model, "model", "exec"), space)
            space["model"](space["example"].clone())
        except Exception as error:
            return [f"torch: {type(error).__name__}: {error}"]
        refused = []
        for stage in list(case.stages):
            try:
                exec(compile(stage, "stage", "exec"), space)
            except TapernetError as error:
                refused.append(f"{type(error).__name__}: {error}")
                case.stages.remove(stage)
            except Exception as error:
                raise Failure(_short(error)) from error
        try:
            engines = {name: _engine(space, name, case.seed % 2 + 1) for name in kernels}
        except Exception as error:
            raise Failure(f"compile: {_short(error)}") from error
        found = {_at(space, engines, budget) for budget in space["budgets"]}
    return [*refused, "undecided" if "undecided" in found else "right"]


def _short(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames]
    return f"{type(error).__name__}: {error} ({', '.join(places)})"


def _engine(space: dict[str, Any], kernels: str, threads: int) -> Any:
    return tn.compile(space["net"], space["example"], kernels=kernels, choices=space["choices"], threads=threads)


def _at(space: dict[str, Any], engines: dict[str, Any], budget: Any) -> str:
    """All that computes the network at a budget, against torch."""
    net, reference = space["net"], space["reference"]
    calls = {name: partial(engine, budget=budget) for name, engine in engines.items()}
    results = []
    with at(net, budget), at(reference, budget):
        if isinstance(net, tn.TaperedNet):
            calls["extract"] = tn.extract(reference, budget).eval()
        for x in space["inputs"]:
            try:
                expected = reference(copy.deepcopy(x))
            except Exception:  # images of one size, no empty batch, another rank in memory
                continue
            for name, call in calls.items():
                try:
                    results.append((name, x, expected, call(copy.deepcopy(x))))
                except Exception as error:
                    where = f"{name} at {budget} on {tuple(x.shape)}"
                    raise Failure(f"{where}: {_short(error)}") from error
        # Only now, so that a later call cannot change an earlier one's result.
        return max([_judge(reference, x, want, found, f"{name} at {budget}") for name, x, want, found in results],
                   default="right")  # fmt: skip


def _judge(net: nn.Module, x: Tensor, expected: Tensor, found: Tensor, where: str) -> str:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise Failure(f"{where}: {found.dtype} of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    if not expected.numel() or torch.equal(found, expected):
        return "right"
    scale = float(expected.abs().max())
    error = float((found - expected).abs().max())
    if error <= TOLERANCE * scale:
        return "right"
    moved = max(_moved(net, x, expected) for _ in range(4))
    if error <= TOLERANCE * scale + 4 * moved:
        return "right" if moved < WORST * scale else "undecided"
    raise Failure(f"{where} on {tuple(x.shape)}: off by {error:.3g} of {scale:.3g}, where rounding makes {moved:.3g}")


def _moved(net: nn.Module, x: Tensor, expected: Tensor) -> float:
    """By how much rounding may move the output: numbers near a threshold, and small differences of large numbers."""
    near = copy.deepcopy(net)
    for tensor in [*near.parameters(), *near.buffers()]:
        if tensor.is_floating_point():
            tensor.mul_(1 + NOISE * torch.randn_like(tensor))
    x = copy.deepcopy(x) * (1 + NOISE * torch.randn(x.shape))
    found: Tensor = near(x)
    return float((found - expected).abs().max())


def smallest(seed: int, kernels: list[str]) -> tuple[Case, str] | None:
    """The case of the seed with the fewest operations that fails, and how."""
    for most in [*range(1, 15), 1000]:
        try:
            run(found := case(seed, most), kernels)
        except Failure as failure:
            return found, str(failure)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**6 * 10**4, help="the first one")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--failures", type=int, default=10, help="after so many it ends")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kernels: list[str] = extension().kernels()
    end, seed, failed = time.monotonic() + 60 * given.minutes, given.seed, 0
    ends: Counter[str] = Counter()
    while time.monotonic() < end and seed < given.seed + given.count and failed < given.failures:
        try:
            ends.update(run(case(seed), kernels))
        except Failure:
            failed += 1
            found, reason = smallest(seed, kernels) or (case(seed), "only as a whole")
            print(f"\n# seed {seed}: {reason}\n{found.script}", flush=True)
        seed += 1
    report(ends, failed, given.seed, seed, kernels)
    return 1 if failed else 0


def report(ends: Counter[str], failed: int, first: int, last: int, kernels: list[str]) -> None:
    refusals = Counter({end: n for end, n in ends.items() if end not in ("right", "undecided")})
    for reason, count in refusals.most_common(12):
        print(f"{count:6} {reason[:180]}")
    print(f"seeds {first} to {last - 1} with {', '.join(kernels)}: {ends['right']} right, {failed} wrong, "
          f"{ends['undecided']} undecided, {refusals.total()} refused")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
