"""`tapernet cam`."""

import torch

from tapernet.commands.console import show
from tapernet.commands.pictures import chosen_images
from tapernet.commands.source import open_net
from tapernet.errors import ConfigError
from tapernet.files import check_writable
from tapernet.measure.cam import activation_maps
from tapernet.measure.cam_grid import draw_maps
from tapernet.measure.plot import check_ending


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
    check_writable(output, inputs=(net, *(images or ())))
    check_ending(output)
    network, spec = open_net(net)
    drawn = chosen_images(net, network, spec, data, images, labels, test_images)
    if true_class and None in drawn.labels:
        raise ConfigError("the map of the true class needs the class of every image: give --labels")
    classes = torch.tensor(drawn.labels) if true_class else None
    found = activation_maps(network, drawn.inputs, budgets, classes=classes)
    draw_maps(drawn.pictures, found, output, class_names=drawn.class_names, labels=drawn.labels)
    show(f"wrote {output}")
