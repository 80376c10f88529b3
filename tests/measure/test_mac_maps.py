"""Maps of MACs against what is counted, and the picture of them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tapernet import zoo
from tapernet.convert.terminate import terminate
from tapernet.errors import ConfigError, DataError, FileError
from tapernet.measure.mac_grid import draw_macs
from tapernet.measure.mac_maps import mac_image, mac_maps, mac_shares
from tapernet.measure.termination import count_termination
from tapernet.nn.check import Check

SHAPE = (3, 12, 12)


def images(n: int = 5) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    stopping = terminate(zoo.create("c10net", input_shape=SHAPE), images(1))
    stopping.conv1.set_checks([Check(position=7)])
    stopping.conv3.set_checks([Check(share=0.05), Check(share=0.32)])
    return stopping.eval()


def test_maps_add_up_to_what_was_done(net: nn.Module) -> None:
    report = count_termination(net, images())
    maps = mac_maps(net, images())
    assert {path: tuple(m.shape) for path, m in maps.items()} == {
        "conv1": (5, 12, 12), "conv2": (5, 6, 6), "conv3": (5, 3, 3),
    }  # fmt: skip
    others = sum(report.others.values())
    assert torch.equal(sum(m.sum((1, 2)) for m in maps.values()) + others, report.done_per_image)
    image = mac_image(net, images())
    assert image.shape == (5, 12, 12)
    assert torch.allclose(image.sum((1, 2)) + others, report.done_per_image.double())


def test_a_map_shows_where_nothing_stops() -> None:
    stopping = terminate(nn.Sequential(nn.Conv2d(1, 1, (1, 3), padding="same"), nn.ReLU()), torch.zeros(1, 1, 4, 4))
    with torch.no_grad():
        stopping[0].weight.copy_(torch.tensor([0.1, 1.0, 0.1]).view(1, 1, 1, 3))
    stopping[0].set_checks([Check(position=1)])
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    # The heaviest tap is the pixel itself: positive pixels take all four terms, negative ones one and the check.
    assert torch.equal(mac_maps(stopping, x[None, None])["0"][0], torch.where(x > 0, 4, 2))


def test_shares_are_of_what_nothing_stopped_would_cost(net: nn.Module) -> None:
    layers, together = mac_shares(net, images())
    report = count_termination(net, images())
    for layer in report.layers:
        assert layers[layer.path].mean().item() == pytest.approx(layer.done / layer.total)
        assert 0 <= layers[layer.path].min() <= layers[layer.path].max() <= 1
    assert torch.equal(layers["conv2"], torch.ones(5, 6, 6, dtype=torch.float64))  # no check
    done, total = (sum(getattr(layer, name) for layer in report.layers) for name in ("done", "total"))
    assert together.shape == (5, 12, 12)
    assert together.mean().item() == pytest.approx(done / total)


def test_shares_in_the_exact_order_and_of_a_layer_that_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x).relu()).relu()

    torch.manual_seed(1)
    net = terminate(Twice(), torch.ones(1, 1, 4, 4), order="exact", non_negative_input=True).eval()
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    layers, together = mac_shares(net, x)
    report = count_termination(net, x)
    assert report.saved > 0
    assert layers["conv"].mean().item() == pytest.approx(1 - report.saved)
    torch.testing.assert_close(together, layers["conv"])


@pytest.mark.parametrize("pictures", [torch.rand(5, *SHAPE), torch.zeros(5, 1, 12, 12, dtype=torch.uint8)])
def test_the_picture(net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    draw_macs(pictures, *mac_shares(net, images()), tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as grid:
        assert 0.5 < grid.width / grid.height < 1.2  # five columns, five rows


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [mac_maps, mac_image, mac_shares])
def test_zero_images(net: nn.Module, measure: object) -> None:
    with pytest.raises(DataError, match="zero images"):
        measure(net, images(0))


@pytest.mark.parametrize("measure", [mac_maps, mac_image, mac_shares])
def test_a_network_that_does_not_terminate(measure: object) -> None:
    with pytest.raises(ConfigError, match="call terminate"):
        measure(zoo.create("c10net", input_shape=SHAPE), images())


def test_a_picture_that_cannot_be_written(net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError):
        draw_macs(images(), *mac_shares(net, images()), tmp_path / "file" / "maps.png")
