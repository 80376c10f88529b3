"""MobileNetV2: its blocks, size and width."""

import pytest
import torch
from torch import nn

from tapernet.errors import ConfigError
from tapernet.zoo.mobilenet import mobilenetv2


def test_parameters_are_the_sources() -> None:
    """Counted from Table 2 of the source: a bottleneck from k to c channels with expansion t."""
    table = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    total, k = 3 * 32 * 9 + 2 * 32, 32
    for t, c, n in table:
        for _ in range(n):
            hidden = t * k
            total += (k * hidden + 2 * hidden if t > 1 else 0) + 9 * hidden + 2 * hidden + hidden * c + 2 * c
            k = c
    total += k * 1280 + 2 * 1280 + 1280 * 10 + 10
    assert sum(p.numel() for p in mobilenetv2().parameters()) == total


def test_the_last_map_of_a_cifar_image_is_4_by_4() -> None:
    model = mobilenetv2(width=0.25)
    assert model[:9](torch.zeros(1, 3, 32, 32)).shape == (1, 1280, 4, 4)


def test_residual_sums_stand_where_the_shape_stays() -> None:
    stages = [m for m in mobilenetv2() if isinstance(m, nn.Sequential) and hasattr(m[0], "residual")]
    # Every block but the first of a stage.
    assert [[block.residual for block in stage] for stage in stages] == [
        [i > 0 for i in range(blocks)] for blocks in (1, 2, 3, 4, 3, 3, 1)
    ]


@pytest.mark.parametrize(("width", "channels"), [(1.0, 32), (0.5, 16), (0.3, 8), (0.01, 8), (1.4, 48)])
def test_widths_are_multiples_of_8(width: float, channels: int) -> None:
    assert mobilenetv2(width=width).stem.conv.out_channels == channels


def test_bad_width() -> None:
    with pytest.raises(ConfigError, match="width is more than 0"):
        mobilenetv2(width=0)
