"""CIFAR ResNets: depth, size, bad depths."""

import pytest
from torch import nn

from tapernet.errors import ConfigError
from tapernet.zoo.resnet import resnet


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_the_layers_with_weights(depth: int) -> None:
    model = resnet(depth=depth)
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "shortcut" not in n]
    assert len(layers) == depth


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85)])
def test_parameters_are_the_sources(depth: int, millions: float) -> None:
    """Table 6 of the source, whose shortcuts have none."""
    counted = sum(p.numel() for n, p in resnet(depth=depth).named_parameters() if "shortcut" not in n)
    assert round(counted / 1e6, 2) == millions


@pytest.mark.parametrize("depth", [2, 18, 21, 0, -4])
def test_bad_depth(depth: int) -> None:
    with pytest.raises(ConfigError, match="6 n \\+ 2"):
        resnet(depth=depth)


def test_bad_width() -> None:
    with pytest.raises(ConfigError, match="width is more than 0"):
        resnet(width=0)
