"""What a check of sums in eight bits costs a layer, by how many of its outputs go on, in its dense time.

Run it on a quiet machine: python benchmarks/rounded.py
"""

import torch
from torch import Tensor, nn

import tapernet as tn
from tapernet.engine.choose import fastest_times
from tapernet.engine.native import choose_kernels
from tapernet.experiment.common import hardware
from tapernet.nn.terminating import terminating_layers

LAYERS = ((32, 32, 5, 16), (32, 64, 5, 8), (96, 192, 5, 16), (192, 192, 3, 8), (128, 128, 3, 16), (192, 160, 1, 32))
"""Input channels, filters, kernel, pixels a side."""
SHARES = (0.0, 0.1, 0.2, 0.3, 1.0)
NEVER, ALWAYS = -1e3, 1e3
IMAGES = 8


@torch.no_grad()
def let_through(conv: nn.Conv2d, x: Tensor, share: float) -> None:
    """Sets each filter's bias so that about this share of its outputs is positive."""
    assert conv.bias is not None
    conv.bias.zero_()
    outputs = conv(x).transpose(0, 1).flatten(1)
    rank = round(outputs.shape[1] * (1 - share))
    if 0 < rank < outputs.shape[1]:
        conv.bias.copy_(-outputs.kthvalue(rank, dim=1).values)
    else:
        conv.bias.fill_(ALWAYS if share else NEVER)


def ratio(conv: nn.Conv2d, x: Tensor) -> float:
    """The layer's time with the check, in its dense time."""
    net = tn.terminate(nn.Sequential(conv, nn.ReLU()), x, bias_first=True).eval()
    terminating_layers(net)["0"].set_checks([tn.Check(bits=8)])
    engines = [tn.compile(net, x, choices={"0": kind}) for kind in ("terminating", "dense")]
    checked, dense = (times["0"] for times in fastest_times(engines, [x], 1.0))
    return checked / dense


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{hardware()}, kernels: {choose_kernels('auto', 'highest')}")
    print("time with the check / dense, where 0, 10, 20, 30, 100% of the outputs go on")
    for channels, filters, kernel, side in LAYERS:
        conv, x = nn.Conv2d(channels, filters, kernel, padding=kernel // 2), torch.rand(IMAGES, channels, side, side)
        found = []
        for share in SHARES:
            let_through(conv, x, share)
            found.append(f"{ratio(conv, x):.2f}")
        print(f"{channels} to {filters}, {kernel}x{kernel}, {side}x{side} pixels: {' '.join(found)}")


if __name__ == "__main__":
    main()
