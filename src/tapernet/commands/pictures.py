"""Images that a command draws: from files, and from the test images of a network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tapernet.commands.source import open_images
from tapernet.data import ImageData
from tapernet.data.pictures import read_pictures
from tapernet.errors import ConfigError
from tapernet.registry import unknown
from tapernet.saving import InputSpec, input_shape


@dataclass(frozen=True)
class Drawn:
    """Images to draw.

    Args:
        pictures: as they are to be seen, shape (n, channels, height, width), in [0, 1].
        inputs: as the network takes them, same shape.
        labels: the class of each, None where it is not known.
        class_names: of the network's outputs.
    """

    pictures: Tensor
    inputs: Tensor
    labels: list[int | None]
    class_names: tuple[str, ...]


def chosen_images(
    net: str, network: nn.Module, spec: InputSpec | None, data: str | None,
    files: list[str] | None, labels: list[str | int] | None, test_images: list[int] | None,
) -> Drawn:  # fmt: skip
    """Those from files first, then those of the data set.

    Args:
        net: the network's name, for messages.
        network: what takes them.
        spec: how its images were prepared.
        data: where the test images are; by default where the network was trained.
        files: pictures; they are scaled and cropped to the network's size.
        labels: the class of each picture file by name.
        test_images: positions in the test images.

    Raises:
        ConfigError: no image is named, the network has no spec, or labels do not fit.
        FileError, DataError: an image that is not there or cannot be read.
    """
    if spec is None:
        raise ConfigError(f"{net} does not tell how its images were prepared, which new ones need")
    names = None if labels is None else [str(label) for label in labels]  # digits are read as numbers
    parts: list[tuple[ImageData, list[int | None]]] = []
    if files or labels:
        parts.append(_from_files(files or [], names, network, spec))
    if test_images is not None:
        test = open_images(net, spec, data).test.take(test_images)
        parts.append((test, list(test.labels.tolist())))
    if not parts:
        raise ConfigError("which images? Name picture files, or positions with --test_images")
    return Drawn(
        torch.cat([_visible(part) for part, _ in parts]),
        torch.cat([part.as_float() for part, _ in parts]),
        [label for _, known in parts for label in known],
        spec.class_names,
    )


def _from_files(
    paths: list[str], labels: list[str] | None, network: nn.Module, spec: InputSpec
) -> tuple[ImageData, list[int | None]]:
    names = spec.class_names
    if labels is not None and len(labels) != len(paths):
        raise ConfigError(f"{len(paths)} picture files need as many labels, not {len(labels)}")
    for label in labels or []:
        if label not in names:
            raise ConfigError(unknown("class", label, names))
    known: list[int | None] = [None] * len(paths) if labels is None else [names.index(label) for label in labels]
    pictures = read_pictures(paths, input_shape(network))
    given = torch.tensor([0 if label is None else label for label in known])
    return ImageData(pictures, given, names, spec.mean, spec.std), known


def _visible(data: ImageData) -> Tensor:
    """Pixels in [0, 1]."""
    return data.images / 255 if data.images.dtype == torch.uint8 else data.images.float().clamp(0, 1)
