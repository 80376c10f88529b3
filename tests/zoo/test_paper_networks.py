"""C10-Net and NiN: the paper's MACs, its order of layers, its image sizes."""

import pytest
import torch
from torch import nn

from tapernet import zoo
from tapernet.errors import ConfigError


def macs_with_bias(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Terms of every convolution and fully connected layer, the bias one of them, for one image."""
    total = 0

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out.numel() * (layer.weight[0].numel() + 1)

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    model.eval()(torch.zeros(1, *shape))
    return total


@pytest.mark.parametrize(
    ("name", "classes", "macs"),
    [("c10net", 10, 12_399_306), ("c10net", 100, 13_053_156), ("nin", 10, 223_117_952), ("nin", 100, 224_229_632)],
)
def test_macs_are_the_papers(name: str, classes: int, macs: int) -> None:
    assert macs_with_bias(zoo.create(name, classes=classes), (3, 32, 32)) == macs


def test_c10net_pools_before_its_first_relu_only() -> None:
    kinds = [type(m).__name__ for m in zoo.create("c10net")]
    assert kinds == [
        *("Conv2d", "MaxPool2d", "ReLU"), *("Conv2d", "ReLU", "AvgPool2d"), *("Conv2d", "ReLU", "AvgPool2d"),
        *("Flatten", "Dropout", "Linear", "Linear"),
    ]  # fmt: skip


def test_nin_has_a_relu_after_each_of_nine_convolutions() -> None:
    kinds = [type(m).__name__ for m in zoo.create("nin")]
    assert kinds.count("Conv2d") == 9
    assert all(kinds[i + 1] == "ReLU" for i, kind in enumerate(kinds) if kind == "Conv2d")


@pytest.mark.parametrize("name", ["c10net", "nin"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 40, 24)])
def test_any_image_shape(name: str, batch_norm: bool, shape: tuple[int, ...]) -> None:
    model = zoo.create(name, input_shape=shape, classes=7, batch_norm=batch_norm, dropout=0.2)
    assert model(torch.rand(2, *shape)).shape == (2, 7)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model) == batch_norm


@pytest.mark.parametrize("name", ["c10net", "nin"])
def test_dropout_acts_in_training_only(name: str) -> None:
    model, x = zoo.create(name, input_shape=(1, 8, 8), dropout=0.5), torch.rand(4, 1, 8, 8)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(("name", "side"), [("c10net", 7), ("nin", 3)])
def test_images_too_small(name: str, side: int) -> None:
    with pytest.raises(ConfigError, match=f"{side} x {side}"):
        zoo.create(name, input_shape=(3, side, side))
    zoo.create(name, input_shape=(3, side + 1, side + 1)).eval()(torch.zeros(1, 3, side + 1, side + 1))


@pytest.mark.parametrize("name", ["c10net", "nin"])
def test_a_dropout_that_is_no_share(name: str) -> None:
    with pytest.raises(ConfigError, match="dropout"):
        zoo.create(name, dropout=1.5)
