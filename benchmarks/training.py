"""Speed of training, each figure a ratio of two things timed in turns in this one run.

Run it on a quiet machine: python benchmarks/training.py
"""

import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from tapernet import zoo
from tapernet.convert.taper import taper
from tapernet.convert.terminate import terminate
from tapernet.experiment.common import hardware
from tapernet.measure.macs import total_macs
from tapernet.nn.check import Check
from tapernet.nn.narrow import narrowed
from tapernet.nn.terminating import terminating_layers
from tapernet.train.objective import Objective, ObjectiveLoss, Penalty, Step
from tapernet.train.settings import Settings
from tapernet.train.small_maps import SmallMaps, weight_gradient

Timed = Callable[[], None]
TASKS = Objective({1.0: 0.125, 0.7: 0.125, 0.4: 0.25, 0.1: 0.5})


def ratio(first: Timed, second: Timed, calls: int, rounds: int = 15) -> tuple[float, float, float]:
    """Time of first / second: median, least and greatest of rounds in which they take turns."""
    found = []
    for turn in range(rounds + 1):
        times = []
        for step in (first, second):
            start = time.perf_counter()
            for _ in range(calls):
                step()
            times.append(time.perf_counter() - start)
        if turn:  # the first turn warms up
            found.append(times[0] / times[1])
    return statistics.median(found), min(found), max(found)


def house_step(
    net: nn.Module, objective: Objective, x: torch.Tensor, y: torch.Tensor, precision: Any = "32-true"
) -> Timed:
    """A step as `tapernet.fit` takes it, Fabric included."""
    fabric, rng = Fabric(accelerator="cpu", precision=precision), random.Random(0)
    loss, optimizer = fabric.setup(ObjectiveLoss(net, objective), Settings().make_optimizer(net.parameters()))

    def step() -> None:
        value = loss(x, y, Step(objective.draw(rng), float(len(x))))
        optimizer.zero_grad()
        fabric.backward(value)
        optimizer.step()

    return step


def bare_step(objective: Objective, x: torch.Tensor, y: torch.Tensor) -> Timed:
    """The same passes over the same network, written by hand with plain tensors."""
    layers = [torch.nn.Linear(784, 100), torch.nn.Linear(100, 100), torch.nn.Linear(100, 10)]
    fc1, fc2, fc3 = layers
    gamma = torch.linspace(1, 0.01, 100)
    optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], fused=True)

    def step() -> None:
        total = torch.zeros(())
        for budget in objective.budgets:
            k = round(budget * 100)
            h = F.relu(F.linear(x.flatten(1), fc1.weight[:k], fc1.bias[:k])) * gamma[:k]
            h = F.relu(F.linear(h, fc2.weight[:, :k], fc2.bias))
            total = total + objective.weights[budget] * F.cross_entropy(fc3(h), y)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def throughput() -> None:
    """House loop against a bare loop, on the MNIST network at the paper's batch size."""
    x, y = torch.randn(28, 1, 28, 28), torch.randint(10, (28,))
    net = taper(zoo.create("mlp"), x[:1], keep=["fc2"])
    for name, objective in (("1 budget", Objective({1.0: 1.0})), ("4 budgets", TASKS)):
        median, low, high = ratio(bare_step(objective, x, y), house_step(net, objective, x, y), calls=100)
        print(f"throughput against a bare PyTorch loop, MLP, batch 28, {name}: {median:.2f} ({low:.2f} to {high:.2f})")


def small_budget() -> None:
    """A 30% step against a full one on a 2048-wide MLP."""
    x, y = torch.randn(512, 1, 28, 28), torch.randint(10, (512,))

    def step_at(budget: float) -> tuple[Timed, int]:
        net = taper(zoo.create("mlp", hidden=[2048, 2048]), x[:1])
        with net.at(budget):
            macs = total_macs(net, x[0]).usual
        narrow = narrowed(net, budget)
        narrow.__enter__()  # stays narrowed for the process's life
        alive.append(narrow)
        return house_step(net, Objective({budget: 1.0}), x, y), macs

    alive: list[object] = []
    (small, small_macs), (full, full_macs) = step_at(0.3), step_at(1.0)
    median, low, high = ratio(small, full, calls=1)
    macs = small_macs / full_macs
    print(
        f"30% step / full step, 2048-wide MLP, batch 512: time {median:.3f} ({low:.3f} to {high:.3f}), "
        f"MACs {macs:.3f}, time / MACs {median / macs:.2f}"
    )


def mixed_precision() -> None:
    """A step of VGG-16 in bfloat16: `SmallMaps` against oneDNN alone."""
    x = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(10, (128,))
    for width in (0.5, 1.0):
        net = taper(zoo.create("vgg16", batch_norm=True, width=width), x[:1]).to(memory_format=torch.channels_last)
        step = house_step(net, Objective({1.0: 1.0}), x, y, "bf16-mixed")

        def by_products(step: Timed = step) -> None:
            with SmallMaps():
                step()

        median, low, high = ratio(by_products, step, calls=1, rounds=7)
        print(
            f"bf16 step with small maps by products / by oneDNN, VGG-16 at width {width}, batch 128: "
            f"{median:.2f} ({low:.2f} to {high:.2f})"
        )


def checks() -> None:
    """A step of C10-Net in bfloat16 with a check in each layer, and with a MAC penalty, against one without checks."""
    x = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(10, (128,))
    plain = zoo.create("c10net").to(memory_format=torch.channels_last)
    stopping = terminate(plain, x[:1]).to(memory_format=torch.channels_last)
    for layer in terminating_layers(stopping).values():
        layer.set_checks([Check(share=0.2)])
    without = house_step(plain, Objective({1.0: 1.0}), x, y, "bf16-mixed")
    for name, factor in (("checks", 0.0), ("checks and MAC penalty", 0.2)):
        objective = Objective({1.0: 1.0}, penalty=Penalty(factor))
        median, low, high = ratio(house_step(stopping, objective, x, y, "bf16-mixed"), without, calls=5, rounds=7)
        print(f"bf16 step with {name} / without, C10-Net, batch 128: {median:.2f} ({low:.2f} to {high:.2f})")


def weight_gradients() -> None:
    """The time of the weight gradient of some of that network's convolutions, in those of their outputs."""
    for channels, side in ((128, 8), (256, 4), (512, 4), (256, 2), (512, 2)):
        x, weight = torch.randn(128, channels, side, side), torch.randn(channels, channels, 3, 3)
        x, weight = (t.bfloat16().to(memory_format=torch.channels_last) for t in (x, weight))
        convolution = partial(F.conv2d, x, weight, padding=1)
        gradient = torch.randn_like(convolution())
        own = partial(torch.ops.aten.convolution_backward, gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False,
                      [0, 0], 1, [False, True, False])  # fmt: skip
        ours = partial(weight_gradient, x, gradient, (3, 3), (1, 1))
        theirs, products = (ratio(timed, convolution, calls=1, rounds=9)[0] for timed in (own, ours))
        print(
            f"weight gradient / output, {channels} channels, {side}x{side}, batch 128, bf16: oneDNN {theirs:.1f}, "
            f"by a product {products:.1f}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(hardware())
    throughput()
    small_budget()
    mixed_precision()
    checks()
    weight_gradients()
