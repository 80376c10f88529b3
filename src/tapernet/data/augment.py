"""Random changes to a batch of training images, for all its images at once.

A new augmentation is one function here. All draw from the given generator and from nothing else, so that a run can be
repeated; the draws are made where the generator is and moved to the images.
"""

from collections.abc import Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tapernet.registry import Registry


class Augmentation(Protocol):
    """From a batch (N, C, H, W) to a new one of the same shape and dtype."""

    def __call__(self, batch: Tensor, generator: torch.Generator, fill: Tensor | float = 0.0) -> Tensor:
        """`fill` is the value outside an image, one number or one per channel (C,)."""


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


def augment(batch: Tensor, names: Iterable[str], generator: torch.Generator, fill: Tensor | float = 0.0) -> Tensor:
    """Applies augmentations in the order given; the batch itself is left as it was.

    Args:
        batch: standardised images, (N, C, H, W).
        names: of `AUGMENTATIONS`.
        generator: the only source of randomness.
        fill: the value outside an image: one number, or one per channel (C,). Zero is the mean colour of standardised
            images; `ImageData.black` is black.

    Raises:
        ConfigError: an unknown name; the message lists the valid ones.
    """
    for change in [AUGMENTATIONS[name] for name in names]:
        batch = change(batch, generator, fill)
    return batch


@AUGMENTATIONS.register("flip")
def flip(batch: Tensor, generator: torch.Generator, fill: Tensor | float = 0.0) -> Tensor:
    """Mirrors each image left to right with probability 1/2. Nothing is filled."""
    mirrored = _draw(2, (len(batch), 1, 1, 1), generator, batch) == 1
    return torch.where(mirrored, batch.flip(3), batch)


@AUGMENTATIONS.register("crop")
def crop(batch: Tensor, generator: torch.Generator, fill: Tensor | float = 0.0) -> Tensor:
    """Pads 4 pixels of `fill` on each side and crops each image back at a random place (CIFAR's usual recipe)."""
    return _translate(batch, (4, 4), generator, fill)


@AUGMENTATIONS.register("shift")
def shift(batch: Tensor, generator: torch.Generator, fill: Tensor | float = 0.0) -> Tensor:
    """Moves each image by up to 1/14 of its side in each direction, at least 1 pixel (2 on MNIST, 1 on digits)."""
    height, width = batch.shape[2:]
    return _translate(batch, (max(1, round(height / 14)), max(1, round(width / 14))), generator, fill)


@AUGMENTATIONS.register("cutout")
def cutout(batch: Tensor, generator: torch.Generator, fill: Tensor | float = 0.0) -> Tensor:
    """Blanks a square of half the side, anywhere, also partly outside (DeVries and Taylor 2017, 16 of 32 on CIFAR-10).

    As in that paper the square is zero, the mean colour of standardised images, whatever `fill` is.
    """
    n, _, height, width = batch.shape
    inside_y = _window(height, n, generator, batch).view(n, 1, height, 1)
    inside_x = _window(width, n, generator, batch).view(n, 1, 1, width)
    return batch.masked_fill(inside_y & inside_x, 0)


@AUGMENTATIONS.register("dropout")
def dropout(batch: Tensor, generator: torch.Generator, fill: Tensor | float = 0.0) -> Tensor:
    """Blanks a fifth of the pixels, and moves the others away from `fill` so that the mean stays.

    Dropout of the inputs (Srivastava et al. 2014, who keep 0.8 of them); all channels of a pixel go together.
    """
    n, _, height, width = batch.shape
    kept = _draw(5, (n, 1, height, width), generator, batch) > 0
    black = torch.as_tensor(fill, dtype=batch.dtype, device=batch.device).reshape(1, -1, 1, 1)
    return black + (batch - black) * kept / 0.8


def shrink(batch: Tensor, pixels: int) -> Tensor:
    """A batch (N, C, H, W) at (N, C, pixels, pixels), averaged over what a smaller pixel covers."""
    return F.interpolate(batch, (pixels, pixels), mode="bilinear", antialias=True)


def _window(size: int, n: int, generator: torch.Generator, batch: Tensor) -> Tensor:
    """Where a window of half of `size` lies around a random centre, cut at the edges: (n, size), bool."""
    length = max(1, size // 2)
    start = _draw(size, (n, 1), generator, batch) - length // 2
    position = torch.arange(size, device=batch.device)
    return (position >= start) & (position < start + length)


def _translate(batch: Tensor, reach: tuple[int, int], generator: torch.Generator, fill: Tensor | float) -> Tensor:
    """Each image moved by its own whole number of pixels in [-reach, reach], down and across."""
    n, channels, height, width = batch.shape
    down, across = reach
    value = torch.as_tensor(fill, dtype=batch.dtype, device=batch.device).reshape(1, -1, 1, 1)
    padded = value.expand(n, channels, height + 2 * down, width + 2 * across).clone()
    padded[:, :, down : down + height, across : across + width] = batch
    rows = _draw(2 * down + 1, (n, 1), generator, batch) + torch.arange(height, device=batch.device)
    columns = _draw(2 * across + 1, (n, 1), generator, batch) + torch.arange(width, device=batch.device)
    index = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    moved = padded.flatten(2).gather(2, index.view(n, 1, -1).expand(-1, channels, -1))
    return moved.view_as(batch)


def _draw(high: int, size: tuple[int, ...], generator: torch.Generator, batch: Tensor) -> Tensor:
    """Uniform whole numbers in [0, high), on the batch's device."""
    return torch.randint(high, size, generator=generator, device=generator.device).to(batch.device)
