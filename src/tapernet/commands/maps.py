"""`tapernet maps`."""

from tapernet.commands.console import show
from tapernet.commands.pictures import chosen_images
from tapernet.commands.source import open_net
from tapernet.files import check_writable
from tapernet.measure.mac_grid import draw_macs
from tapernet.measure.mac_maps import mac_shares
from tapernet.measure.plot import check_ending
from tapernet.nn.net import at


def maps(
    net: str = "c10net-cifar10-learned",
    images: list[str] | None = None,
    test_images: list[int] | None = None,
    data: str | None = None,
    budget: float | str = 1.0,
    output: str = "maps.png",
) -> None:
    """Draws where a network that stops early spends its multiply-accumulates: tapernet maps IMAGE... --net FILE.

    A row is an image, followed by a map for each layer, and one for all of them: the brighter a place, the greater the
    share of its MACs that is done.

    Args:
        net: a file that `terminate` wrote, or the name of a trained network of the zoo.
        images: picture files; they are scaled and cropped to the network's size.
        test_images: positions in the data set's test images, after those from files.
        data: where the test images are; by default where the network was trained.
        budget: of a network with a dial.
        output: the picture.
    """
    check_writable(output, inputs=(net, *(images or ())))
    check_ending(output)
    network, spec = open_net(net)
    drawn = chosen_images(net, network, spec, data, images, None, test_images)
    with at(network, budget):
        layers, together = mac_shares(network, drawn.inputs)
    draw_macs(drawn.pictures, layers, together, output)
    show(f"wrote {output}")
