"""Ways to tell early that an output will be negative, compared on one trained network.

    python benchmarks/predictors.py --net c10net-cifar10 --data CIFAR10

For each: what it costs, how many outputs go on, and how much of what ReLU would have passed is lost. No times:
`benchmarks/engine.py` has those of what is built. The predictors are the check of the early-termination paper (the
largest weights of each filter first, with its bias first or without); a low-rank one (the best r directions of the
layer's outputs over training images, all taps; r / N + r / K of the MACs), also with a threshold at which as many go on
as at a check of the same cost; and all taps in int8, which costs a share of
the dense time that the processor decides.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tapernet as tn
from tapernet.commands.source import open_images, open_net

SHARES = (0.02, 0.05, 0.1, 0.2, 0.32)
RANKS = (2, 4, 8, 12, 16, 24)
PATCHES = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="c10net-cifar10", help="a saved network, or a trained one of the zoo")
    parser.add_argument("--data", help="where its images are, if it does not tell")
    parser.add_argument("--images", type=int, default=500, help="training images to fit, and as many others to measure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    net, spec = open_net(options.net)
    train = open_images(options.net, spec, options.data).train.as_float()
    net = net.model if isinstance(net, tn.TaperedNet) else net
    assert isinstance(net, nn.Module)
    fit, held_out = (_inputs(net, part) for part in train[: 2 * options.images].split(options.images))
    for path in list(fit)[1:]:  # the first layer has too few taps for any of them
        compare(path, net.get_submodule(path), fit[path], held_out[path])  # type: ignore[arg-type]


def compare(path: str, conv: nn.Conv2d, fit: Tensor, held_out: Tensor) -> None:
    """Prints a line for each predictor of one layer.

    Args:
        path: of the layer.
        conv: not grouped.
        fit: inputs to fit the low-rank predictor to.
        held_out: inputs to measure on.
    """
    weight = conv.weight.detach().flatten(1).double()
    bias = torch.zeros(len(weight)).double() if conv.bias is None else conv.bias.detach().double()
    patches = _patches(conv, held_out)
    passed = (patches @ weight.T + bias).clamp(min=0)
    filters, taps = weight.shape
    print(f"{path}: {filters} filters of {taps} taps, {(passed > 0).double().mean():.1%} of the outputs are positive")

    def line(name: str, cost: str, score: Tensor) -> None:
        goes_on = score >= 0
        lost = (passed**2 * ~goes_on).sum() / (passed**2).sum()
        wrong = ((passed > 0) & ~goes_on).double().mean()
        print(f"  {name:25s} MACs {cost:>5s}  go on {goes_on.double().mean():6.1%}  wrongly stopped {wrong:6.2%}  "
              f"of the squared output lost {lost:8.3%}")  # fmt: skip

    def partial(share: float) -> Tensor:
        largest = torch.zeros_like(weight).scatter_(1, weight.abs().topk(int(taps * share), 1).indices, 1.0)
        return patches @ (weight * largest).T

    for share in SHARES:
        line("largest taps", f"{share:.0%}", partial(share))
        line("largest taps, bias first", f"{share:.0%}", partial(share) + bias)
    for rank in RANKS:
        if rank < filters / 2:
            cost = rank / filters + rank / taps
            score = _low_rank(conv, fit, rank)(patches)
            line(f"rank {rank}", f"{cost:.1%}", score)
            # With a threshold below zero, at which as many go on as with the largest taps at the same cost.
            survivors = int((partial(cost) + bias >= 0).sum())
            threshold = score.flatten().kthvalue(score.numel() - survivors + 1).values
            line(f"rank {rank}, as many go on", f"{cost:.1%}", score - threshold)
            line("  largest taps, bias first", f"{cost:.1%}", partial(cost) + bias)
    line("int8, all taps", "100%", _rounded(patches) @ _rounded(weight, by_row=True).T + bias)


def _low_rank(conv: nn.Conv2d, fit: Tensor, rank: int) -> Callable[[Tensor], Tensor]:
    """From patches to outputs by way of the `rank` directions in which outputs vary most on the fitted images."""
    weight = conv.weight.detach().flatten(1).double()
    patches = _patches(conv, fit)
    mean = patches.mean(0)
    directions = torch.linalg.svd((patches - mean) @ weight.T, full_matrices=False).Vh[:rank].T
    middle = weight @ mean + (0 if conv.bias is None else conv.bias.detach().double())
    return lambda x: ((x - mean) @ (weight.T @ directions)) @ directions.T + middle


def _rounded(x: Tensor, by_row: bool = False) -> Tensor:
    step = (x.abs().amax(1, keepdim=True) if by_row else x.abs().max()) / 127
    return (x / step).round() * step


def _inputs(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each convolution reads, by path."""
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, path=path: found.__setitem__(path, inputs[0]))
        for path, module in net.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.inference_mode():
        net.eval()(images)
    for handle in handles:
        handle.remove()
    return found


def _patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A sample of what its filters are multiplied with, shape (patches, taps), in double precision."""
    generator = torch.Generator().manual_seed(0)
    kernel = conv.kernel_size
    assert not isinstance(conv.padding, str)
    found = []
    for part in x.split(50):
        columns = F.unfold(part, kernel, conv.dilation, conv.padding, conv.stride).transpose(1, 2).flatten(0, 1)
        found.append(columns[torch.randperm(len(columns), generator=generator)[: PATCHES * len(part) // len(x)]])
    return torch.cat(found).double()


if __name__ == "__main__":
    main()
