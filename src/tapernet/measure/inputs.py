"""The forms in which measurements take images."""

from torch import Tensor

from tapernet.data import ImageData
from tapernet.errors import DataError

Labelled = ImageData | tuple[Tensor, Tensor]
"""A data set, or standardised images (n, channels, height, width) and their labels (n,)."""


def images_of(data: Labelled | Tensor) -> Tensor:
    """The standardised images, shape (n, channels, height, width), n > 0; raises DataError if there are none."""
    if isinstance(data, ImageData):
        return data.as_float()
    images = data if isinstance(data, Tensor) else data[0]
    if images.dim() != 4 or not images.is_floating_point():
        raise DataError(f"images are floating point of shape (n, channels, height, width), "
                        f"not {images.dtype} of {tuple(images.shape)}")  # fmt: skip
    if len(images) == 0:
        raise DataError("a batch of zero images")
    return images


def images_and_labels(data: Labelled) -> tuple[Tensor, Tensor]:
    """The standardised images and their labels; raises DataError if there are none, or not as many of both."""
    images = images_of(data)
    labels = data.labels if isinstance(data, ImageData) else data[1]
    if labels.shape != images.shape[:1]:
        raise DataError(f"{len(images)} images need as many labels, not a tensor of shape {tuple(labels.shape)}")
    return images, labels
