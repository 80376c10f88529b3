"""Does a sub-network take the share of time that it takes of MACs? VGG-16 extracted at several budgets, random weights.

python benchmarks/extracted.py --batches 1 32 --budgets 1.0 0.5 0.2

Each line is a runtime at a budget: the share of the full network's MACs, and the share of its time, as the median, the
least and the greatest of rounds in which the budgets take turns. One thread. Wants a quiet machine, and the extra
`export` for ONNX Runtime.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from tapernet import TaperedNet, calibrate, export, extract, taper, total_macs, zoo
from tapernet.experiment.common import hardware

SHAPE = (3, 32, 32)
Timed = Callable[[], object]


def turns(actions: list[Timed], rounds: int) -> list[list[float]]:
    """Milliseconds of each action in every round; the first round warms up."""
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(rounds + 1):
        for action, taken in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if turn:
                taken.append((time.perf_counter() - start) * 1e3)
    return times


def torch_call(net: TaperedNet, budget: float, images: torch.Tensor) -> Timed:
    """Eager torch, channels_last; eval mode runs batch-norm by itself, so it is folded into the convolutions first."""
    small = fuse(extract(net, budget).eval()).to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)

    def call() -> object:
        with torch.inference_mode():
            return small(images)

    return call


def onnx_call(net: TaperedNet, budget: float, images: torch.Tensor) -> Timed:
    """ONNX Runtime, which folds batch-norm when it loads the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        export(net, budget, Path(folder) / "small.onnx")
        session = onnxruntime.InferenceSession(Path(folder) / "small.onnx", options)
    inputs = {"images": images.numpy()}
    return lambda: session.run(None, inputs)


def check(net: nn.Module, calls: dict[str, Timed], images: torch.Tensor) -> None:
    """All runtimes agree with the network with the dial, or the times mean nothing."""
    with torch.no_grad():
        expected = net(images)
    for name, call in calls.items():
        found = call()
        scores = found if isinstance(found, torch.Tensor) else torch.from_numpy(found[0])  # type: ignore[index]
        torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()), msg=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.0, 0.5, 0.2], help="the first is the full one")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=float, default=1.0, help="of VGG-16")
    parser.add_argument("--multiple", type=int, default=1, help="channel counts are rounded up to a multiple of this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(hardware())
    model = zoo.create("vgg16", batch_norm=True, width=options.width)
    net = taper(model, torch.zeros(1, *SHAPE), multiple=options.multiple).eval()
    calibrate(net, [torch.randn(16, *SHAPE)], options.budgets)
    macs = []
    for budget in options.budgets:
        with net.at(budget):
            macs.append(total_macs(net, torch.zeros(SHAPE)).usual)
    kinds = {"ONNX Runtime": onnx_call, "torch, channels_last": torch_call}
    if not all(find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        print("ONNX Runtime: not measured, it needs pip install 'tapernet[export]'")
        del kinds["ONNX Runtime"]
    for batch in options.batches:
        images = torch.randn(batch, *SHAPE)
        calls = {kind: [make(net, b, images) for b in options.budgets] for kind, make in kinds.items()}
        for i, budget in enumerate(options.budgets):
            with net.at(budget):
                check(net, {kind: made[i] for kind, made in calls.items()}, images)
        for kind, made in calls.items():
            times = turns(made, options.rounds)
            for budget, count, taken in zip(options.budgets, macs, times, strict=True):
                shares = [t / full for t, full in zip(taken, times[0], strict=True)]
                print(f"{kind}, batch {batch}, {budget:.0%}: MACs {count / macs[0]:.3f}, "
                      f"time {statistics.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f}), "
                      f"{statistics.median(taken) / batch:.3f} ms an image", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
