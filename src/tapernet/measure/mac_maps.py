"""Where in an image early termination spends its MACs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.measure.inputs import images_of
from tapernet.measure.termination import run_watched
from tapernet.nn.terminating import Outcome, TerminatingConv2d


def mac_maps(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Where each layer spends its MACs: the sum over its filters at each place of its output.

    Args:
        net: a network from `tapernet.terminate`.
        images: shape (n, channels, height, width).

    Returns:
        By the path of each terminating layer, MACs, shape (n, its height, its width), int64.

    Raises:
        DataError: no images.
        ConfigError: the network has no terminating layer.
    """
    return {path: spent.done for path, spent in _spent(net, images).items()}


def mac_image(net: nn.Module, images: Tensor) -> Tensor:
    """Where in each image the terminating layers spend their MACs, as one map of the image's size.

    Each layer's map is stretched over the image, and its MACs spread evenly, so that the sum is kept.

    Args:
        net: a network from `tapernet.terminate`.
        images: shape (n, channels, height, width).

    Returns:
        MACs, shape (n, height, width), float64.

    Raises:
        DataError: no images.
        ConfigError: the network has no terminating layer.
    """
    return _stretched([spent.done for spent in _spent(net, images).values()], images)


def mac_shares(net: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The maps of `mac_maps` and `mac_image` as shares of what each place would cost if nothing stopped.

    Args:
        net: a network from `tapernet.terminate`.
        images: shape (n, channels, height, width).

    Returns:
        By the path of each terminating layer, shares in [0, 1], shape (n, its height, its width), float64; and those of
        all of them together, shape (n, height, width).

    Raises:
        DataError: no images.
        ConfigError: the network has no terminating layer.
    """
    found = _spent(net, images)
    whole = sum(spent.most * spent.done[0].numel() for spent in found.values()) / images[0, 0].numel()
    shares = {path: spent.done.double() / spent.most for path, spent in found.items()}
    return shares, _stretched([spent.done for spent in found.values()], images) / whole


@dataclass
class _Spent:
    """MACs of one layer: done at each place, shape (n, height, width), int64, and the most that a place can cost."""

    done: Tensor
    most: int


def _spent(net: nn.Module, images: Tensor) -> dict[str, _Spent]:
    found: dict[str, _Spent] = {}

    def watch(path: str, layer: TerminatingConv2d, outcome: Outcome) -> None:
        done, most = outcome.done.sum(1), outcome.full.shape[1] * outcome.terms
        before = found.get(path)
        found[path] = _Spent(done, most) if before is None else _Spent(before.done + done, before.most + most)

    run_watched(net, images_of(images), watch)
    return found


def _stretched(maps: list[Tensor], images: Tensor) -> Tensor:
    """The sum of layers' maps, each stretched over the image with its own sum kept; shape (n, height, width)."""
    size = images.shape[2:]
    result = torch.zeros(len(images), *size, dtype=torch.float64, device=images.device)
    for one in maps:
        stretched = F.interpolate(one[:, None].double(), size=size, mode="nearest")[:, 0]
        # Nearest neighbours repeat a place unequally often where the sizes do not divide: keep each image's sum.
        total = stretched.sum((1, 2), keepdim=True).clamp(min=1)
        result += stretched * one.sum((1, 2), keepdim=True) / total
    return result
