"""Labelled images of one size, with the numbers that standardise them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tapernet.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """N labelled images of one size. The tensors are shared, not copied: treat them as read-only.

    Args:
        images: (N, C, H, W), uint8 in 0..255 or floating point.
        labels: (N,), int64 in [0, classes).
        class_names: one name per class.
        mean: per channel, subtracted by `as_float`, in units where uint8 255 is 1. One number stands for all channels.
        std: per channel, divided by after that, in the same units.

    Raises:
        DataError: no images, a wrong dtype or number of dimensions, numbers of images and labels that differ, a label
            outside [0, classes), or a mean or std that does not fit.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, len(self.images), len(self.class_names))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "mean", _per_channel("mean", self.mean, self.images.shape[1]))
        object.__setattr__(self, "std", _per_channel("std", self.std, self.images.shape[1]))
        if min(self.std) <= 0:
            raise DataError(f"std is positive in every channel, not {self.std}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"ImageData({len(self)} images, {size}, {self.images.dtype}, {self.classes} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """How many classes there are, whether or not each has an image here."""
        return len(self.class_names)

    @property
    def black(self) -> Tensor:
        """What `as_float` makes of a black pixel: (C,), float32. Augmentations may fill with it."""
        return -torch.tensor(self.mean) / torch.tensor(self.std)

    def as_float(self) -> Tensor:
        """(images / 255 - mean) / std, without the 255 if they are not uint8: (N, C, H, W), float32.

        Computed once and kept: treat it as read-only.
        """
        return self._standardised

    @cached_property
    def _standardised(self) -> Tensor:
        unit = 255.0 if self.images.dtype == torch.uint8 else 1.0
        mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (self.mean, self.std))
        # In place after the one copy: CIFAR as float32 is 600 MB, and a second such tensor may not fit.
        images = self.images.to(torch.float32, copy=True)
        return images.sub_(mean.to(images.device) * unit).div_(std.to(images.device) * unit)

    def take(self, indices: Tensor | Sequence[int]) -> "ImageData":
        """The images at `indices` in that order, with the same classes, mean and std.

        Raises:
            DataError: no index, one that is not a whole number, or one outside [0, N).
        """
        index = torch.as_tensor(indices, device=self.images.device)
        if index.numel() == 0:
            raise DataError("an empty data set: no index to take")
        if index.ndim != 1 or index.dtype.is_floating_point or index.dtype == torch.bool:
            raise DataError(f"indices are one list of whole numbers, not {index.dtype} of shape {tuple(index.shape)}")
        wrong = index[(index < 0) | (index >= len(self))]
        if wrong.numel():
            raise DataError(f"index {int(wrong[0])} is not in a data set of {len(self)} images")
        index = index.long()
        return replace(self, images=self.images[index], labels=self.labels[index.to(self.labels.device)])

    def split(self, validation: float | int, seed: int) -> tuple["ImageData", "ImageData"]:
        """Two disjoint random parts that together are the whole: (train, validation), each in the original order.

        Args:
            validation: the second part's size: a share in (0, 1), or a count if it is a whole number.
            seed: the same seed gives the same parts.

        Raises:
            ConfigError: a size that leaves either part empty.
        """
        n = len(self)
        share = isinstance(validation, float) and math.isfinite(validation)
        count = round(validation * n) if share else validation
        if isinstance(validation, bool) or not 0 < count < n:
            raise ConfigError(
                f"validation is a share in (0, 1) or a count below {n}, with an image left in both parts, "
                f"not {validation!r}"
            )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        return self.take(order[count:].sort().values), self.take(order[:count].sort().values)


@dataclass(frozen=True)
class Splits:
    """A named data set: train and test images of one shape, with the mean and std of train in both.

    Raises:
        DataError: the two differ in image shape or classes.
    """

    train: ImageData
    test: ImageData
    name: str

    def __post_init__(self) -> None:
        if self.train.shape != self.test.shape:
            raise DataError(f"{self.name}: train images are {self.train.shape}, but test images {self.test.shape}")
        if self.train.class_names != self.test.class_names:
            raise DataError(f"{self.name}: train and test name different classes")


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), in units where 255 is 1.

    A channel that never changes gets a deviation of 1, so that it can be divided by.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        # A histogram is exact, and needs no floating point copy of the images.
        share = torch.bincount(channel.reshape(-1).int(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        deviation = (share * (levels - mean).square()).sum().sqrt().item()
        means.append(mean.item())
        deviations.append(deviation if deviation > 1e-6 else 1.0)
    return tuple(means), tuple(deviations)


def _check_images(images: Tensor) -> None:
    _check_tensor("images", images)
    if images.ndim != 4:
        raise DataError(f"images have 4 dimensions (N, C, H, W), not shape {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise DataError(f"images are uint8 or floating point, not {images.dtype}")
    if images.numel() == 0:
        raise DataError(f"an empty data set: images of shape {tuple(images.shape)}")
    if images.is_floating_point():
        wrong = (~images.isfinite()).flatten(1).any(1).nonzero()
        if len(wrong):
            raise DataError(f"image {int(wrong[0])} holds a value that is not finite")


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise DataError(f"{name} are a tensor, not a {type(value).__name__}: torch.as_tensor converts an array")


def _check_labels(labels: Tensor, images: int, classes: int) -> None:
    _check_tensor("labels", labels)
    if labels.ndim != 1:
        raise DataError(f"labels have 1 dimension (N,), not shape {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise DataError(f"labels are int64, not {labels.dtype}")
    if len(labels) != images:
        raise DataError(f"{images} images, but {len(labels)} labels")
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"label {int(labels[first])} of image {first} is not in [0, {classes}): there are {classes} classes"
        )


def _per_channel(what: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    numbers = tuple(float(v) for v in values)
    if len(numbers) not in (1, channels):
        raise DataError(f"{what} has one number for each of {channels} channels, not {len(numbers)}")
    if not all(math.isfinite(v) for v in numbers):
        raise DataError(f"{what} is finite in every channel, not {numbers}")
    return numbers * channels if len(numbers) == 1 else numbers
