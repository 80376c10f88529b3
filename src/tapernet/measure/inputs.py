"""The forms in which measurements take images."""

from torch import Tensor

from tapernet.checks import describe
from tapernet.data import ImageData
from tapernet.errors import DataError

Labelled = ImageData | tuple[Tensor, Tensor]
"""A data set, or standardised images (n, channels, height, width) and their labels (n,)."""


def images_of(data: Labelled | Tensor) -> Tensor:
    """The standardised images, shape (n, channels, height, width), n > 0; raises DataError if there are none."""
    if isinstance(data, ImageData):
        return data.as_float()
    images = data[0] if isinstance(data, (tuple, list)) and data else data
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        raise DataError(f"images are an ImageData, or a tensor in floating point of shape (n, channels, height, width) "
                        f"with or without labels, not {describe(images)}")  # fmt: skip
    if len(images) == 0:
        raise DataError("a batch of zero images")
    return images


def images_and_labels(data: Labelled) -> tuple[Tensor, Tensor]:
    """The standardised images and their labels; raises DataError if there are none, or not as many of both."""
    images = images_of(data)
    labels = data.labels if isinstance(data, ImageData) else data[1] if len(data) == 2 else None
    there = isinstance(labels, Tensor) and labels.shape == images.shape[:1]
    if not there or labels.is_floating_point() or labels.min() < 0:
        raise DataError(f"{len(images)} images need as many labels, whole numbers from 0, not {describe(labels)}")
    return images, labels
