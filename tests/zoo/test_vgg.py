"""VGG-16: its layers and MACs, and the sizes of image that it takes."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tapernet.errors import ConfigError
from tapernet.zoo.vgg import vgg16

SOURCE = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
"""Configuration D of Simonyan and Zisserman's Table 1."""


def test_layers_are_those_of_configuration_d() -> None:
    found = [
        layer.out_channels if isinstance(layer, nn.Conv2d) else "M"
        for layer in vgg16()
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d))
    ]
    assert found == SOURCE
    assert [(layer.in_features, layer.out_features) for layer in vgg16() if isinstance(layer, nn.Linear)] == [
        (512, 512),
        (512, 10),
    ]


def test_macs_of_a_cifar_image() -> None:
    macs, side, channels = 512 * 512 + 512 * 10, 32, 3
    for entry in SOURCE:
        if entry == "M":
            side //= 2
        else:
            macs += side * side * 9 * channels * entry
            channels = entry
    found = 0

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal found
        found += out.numel() * layer.weight[0].numel()

    model = vgg16()
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    model(torch.zeros(1, 3, 32, 32))
    assert found == macs
    assert round(found / 1e6, 1) == 313.5


def test_without_batch_norm_the_signal_does_not_fade() -> None:
    torch.manual_seed(0)
    model, x = vgg16(width=0.25), torch.randn(8, 3, 32, 32)
    deep = model[: [n for n, _ in model.named_children()].index("conv13") + 1](x)
    assert 0.1 < deep.std() / x.std() < 10


def test_batch_norm_follows_every_convolution_and_has_its_bias() -> None:
    layers = list(vgg16(batch_norm=True, width=0.125))
    pairs = [(a, b) for a, b in pairwise(layers) if isinstance(a, nn.Conv2d)]
    assert len(pairs) == 13
    assert all(isinstance(b, nn.BatchNorm2d) and a.bias is None for a, b in pairs)


def test_average_pooling() -> None:
    kinds = [type(layer) for layer in vgg16(pooling="average", width=0.125)]
    assert kinds.count(nn.AvgPool2d) == 5
    assert nn.MaxPool2d not in kinds


def test_without_hidden_layer_the_map_is_averaged_and_read_by_one_layer() -> None:
    model = vgg16(hidden=0, width=0.125, classes=3)
    assert [type(layer) for layer in model][-3:] == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
    assert model.fc1.weight.shape == (3, 64)


@pytest.mark.parametrize("side", [16, 32, 64, 40])
def test_images_of_other_sizes(side: int) -> None:
    assert vgg16(width=0.125)(torch.zeros(2, 3, side, side)).shape == (2, 10)


def test_unknown_pooling() -> None:
    with pytest.raises(ConfigError, match=r"unknown pooling 'avg'.*average, max"):
        vgg16(pooling="avg")


@pytest.mark.parametrize("width", [0, -1.0])
def test_bad_width(width: float) -> None:
    with pytest.raises(ConfigError, match="width is more than 0"):
        vgg16(width=width)
