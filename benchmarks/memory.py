"""Peak memory of a training step at a small budget against that of a full one, on VGG-16 with random weights.

python benchmarks/memory.py --budget 0.2 --batch 64

Each step runs in a process of its own, as `tapernet.fit` takes it: the forward and backward pass, and Adam, on the
sub-network's own weights. What is compared is the peak above what the process held before the first step (torch, the
whole network, the images).
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from tapernet import Settings, taper, total_macs, zoo
from tapernet.experiment.common import hardware
from tapernet.nn.narrow import narrowed

SHAPE = (3, 32, 32)
MEGABYTE = 1024**2


def resident(field: str) -> int:
    """Bytes of this process that are in memory: now (VmRSS), or at the most so far (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def one(budget: float, batch: int, steps: int, width: float) -> None:
    """Takes the steps at a budget, and prints the peak above the start."""
    torch.set_num_threads(1)
    net = taper(zoo.create("vgg16", batch_norm=True, width=width), torch.zeros(1, *SHAPE)).train()
    images, labels = torch.randn(batch, *SHAPE), torch.randint(10, (batch,))
    before = resident("VmRSS")
    # From here on the highest mark is that of the steps.
    Path("/proc/self/clear_refs").write_text("5")
    with narrowed(net, budget) as weights:
        optimizer = Settings().make_optimizer(weights)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
        print(resident("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="of each; Adam has its state from the first on")
    parser.add_argument("--width", type=float, default=1.0, help="of VGG-16")
    parser.add_argument("--alone", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone is not None:
        one(options.alone, options.batch, options.steps, options.width)
        return
    print(hardware())
    net = taper(zoo.create("vgg16", batch_norm=True, width=options.width), torch.zeros(1, *SHAPE))
    found = []
    for budget in (1.0, options.budget):
        arguments = [f"--{name}={getattr(options, name)}" for name in ("batch", "steps", "width")]
        command = [sys.executable, __file__, f"--alone={budget}", *arguments]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        with net.at(budget):
            macs = total_macs(net, torch.zeros(SHAPE)).usual
        found.append((peak, macs))
        print(f"a step at {budget:.0%}, batch {options.batch}: {peak / MEGABYTE:,.0f} MB above the start", flush=True)
    (full, full_macs), (small, small_macs) = found
    print(f"{options.budget:.0%} of the channels: {small / full:.3f} of the full step's peak memory, "
          f"{small_macs / full_macs:.3f} of its MACs")  # fmt: skip


if __name__ == "__main__":
    main()
