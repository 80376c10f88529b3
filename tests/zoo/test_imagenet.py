"""Starting from published weights: the mapping of layers; fetching them needs torchvision and a network."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tapernet import zoo
from tapernet.errors import ConfigError
from tapernet.zoo.imagenet import copy_features, load_imagenet
from tapernet.zoo.vgg import STAGES


def published(batch_norm: bool) -> nn.Module:
    """Layers as torchvision has them: a bias in every convolution, all in one attribute."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in STAGES:
        for size in stage:
            layers.append(nn.Conv2d(channels, size, 3, padding=1))
            if batch_norm:
                norm = nn.BatchNorm2d(size)
                for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
                    nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
                layers.append(norm)
            layers.append(nn.ReLU())
            channels = size
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_features_are_those_of_the_published_network(batch_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    source = published(batch_norm)
    wanted = "vgg16_bn" if batch_norm else "vgg16"
    models = SimpleNamespace(**{wanted: lambda weights: SimpleNamespace(features=source)})
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    net = zoo.create("vgg16", batch_norm=batch_norm).eval()
    assert isinstance(net, nn.Sequential)
    load_imagenet(net)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net[: [n for n, _ in net.named_children()].index("pool")](x), source(x))


def test_a_network_of_other_widths_is_refused() -> None:
    with pytest.raises(ConfigError, match="differ from the published ones"):
        copy_features(published(False), zoo.create("vgg16", width=0.5))


def test_a_network_without_published_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown network with ImageNet weights 'nin'"):
        load_imagenet(zoo.create("nin"))


def test_without_torchvision_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ConfigError, match=r"pip install 'tapernet\[imagenet\]'"):
        load_imagenet(zoo.create("vgg16"))


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(weights: str) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "torchvision.models", SimpleNamespace(vgg16=fetch))
    with pytest.raises(ConfigError, match="no route to host"):
        load_imagenet(zoo.create("vgg16"))
