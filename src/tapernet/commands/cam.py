"""`tapernet cam`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tapernet.commands.console import show
from tapernet.commands.source import open_images, open_net
from tapernet.data import ImageData
from tapernet.data.pictures import read_pictures
from tapernet.errors import ConfigError
from tapernet.files import check_writable
from tapernet.measure.cam import activation_maps
from tapernet.measure.cam_grid import draw_maps
from tapernet.measure.plot import check_ending
from tapernet.registry import unknown
from tapernet.saving import InputSpec, input_shape


def cam(
    net: str = "net.safetensors",
    images: list[str] | None = None,
    test_images: list[int] | None = None,
    labels: list[str | int] | None = None,
    data: str | None = None,
    budgets: list[float | str] | None = None,
    true_class: bool = False,
    output: str = "cam.png",
) -> None:
    """Draws the class activation maps of images at every budget: tapernet cam IMAGE... --net FILE.

    A row is an image, followed by its map at each budget. A green title is a right prediction, a red one wrong.

    Args:
        net: a file that `train` wrote; the network ends in global average pooling and one linear layer.
        images: picture files; they are scaled and cropped to the network's size.
        test_images: positions in the data set's test images, after those from files.
        labels: the class of each picture file by name, so that right and wrong can be told.
        data: where the test images are; by default where the network was trained.
        budgets: what to show, numbers or names of budgets per layer; by default 10%, 20%, ..., 100%.
        true_class: show the map of the true class in place of the predicted one.
        output: the picture.
    """
    check_writable(output)
    check_ending(output)
    network, spec = open_net(net)
    if spec is None:
        raise ConfigError(f"{net} does not tell how its images were prepared, which new ones need")
    names = None if labels is None else [str(label) for label in labels]  # digits are read as numbers
    parts = [_from_files(images or [], names, network, spec)] if images or labels else []
    if test_images is not None:
        test = open_images(net, spec, data).test.take(test_images)
        parts.append(_Shown(test, list(test.labels.tolist())))
    if not parts:
        raise ConfigError("which images? Name picture files, or positions with --test_images")
    known = [label for part in parts for label in part.labels]
    if true_class and None in known:
        raise ConfigError("the map of the true class needs the class of every image: give --labels")
    classes = torch.tensor(known) if true_class else None
    found = activation_maps(network, torch.cat([p.data.as_float() for p in parts]), budgets, classes=classes)
    pictures = torch.cat([_visible(p.data) for p in parts])
    draw_maps(pictures, found, output, class_names=spec.class_names, labels=known)
    show(f"wrote {output}")


@dataclass(frozen=True)
class _Shown:
    """Images, and the class of each as far as it is known."""

    data: ImageData
    labels: list[int | None]


def _from_files(paths: list[str], labels: list[str] | None, network: nn.Module, spec: InputSpec) -> _Shown:
    names = spec.class_names
    if labels is not None and len(labels) != len(paths):
        raise ConfigError(f"{len(paths)} picture files need as many labels, not {len(labels)}")
    for label in labels or []:
        if label not in names:
            raise ConfigError(unknown("class", label, names))
    known: list[int | None] = [None] * len(paths) if labels is None else [names.index(label) for label in labels]
    pictures = read_pictures(paths, input_shape(network))
    given = torch.tensor([0 if label is None else label for label in known])
    return _Shown(ImageData(pictures, given, names, spec.mean, spec.std), known)


def _visible(data: ImageData) -> Tensor:
    """Pixels in [0, 1]."""
    return data.images / 255 if data.images.dtype == torch.uint8 else data.images.float().clamp(0, 1)
