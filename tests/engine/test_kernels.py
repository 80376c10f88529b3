"""Single layers of random shapes against torch."""

import pytest
import torch
from engine_reference import KERNELS, ROUGH, by_torch, close, needs_kernels, tolerance_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tapernet as tn

pytestmark = needs_kernels


@pytest.mark.parametrize("kernels", KERNELS + ROUGH)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_convolutions(kernels: str, data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 1, 2, 5]), "groups")
    channels, filters = (draw(st.integers(1, 40 // groups), n) * groups for n in ("channels", "filters"))
    if draw(st.integers(0, 4), "depthwise") == 0:
        groups = filters = channels
    kernel = (draw(st.integers(1, 5), "kernel h"), draw(st.integers(1, 5), "kernel w"))
    options = {
        "stride": (draw(st.integers(1, 3), "stride h"), draw(st.integers(1, 3), "stride w")),
        "dilation": (draw(st.integers(1, 2), "dilation h"), draw(st.integers(1, 2), "dilation w")),
        "padding": (draw(st.integers(0, 3), "padding h"), draw(st.integers(0, 3), "padding w")),
        "bias": draw(st.booleans(), "bias"),
    }
    torch.manual_seed(draw(st.integers(0, 99), "seed"))
    layer = nn.Conv2d(channels, filters, kernel, groups=groups, **options)
    model = nn.Sequential(layer, nn.ReLU()) if draw(st.booleans(), "relu") else nn.Sequential(layer)
    x = torch.randn(
        draw(st.integers(1, 3), "batch"), channels, draw(st.integers(9, 20), "h"), draw(st.integers(9, 20), "w")
    )
    engine = tn.compile(model, x, kernels=kernels)
    close(engine(x), by_torch(model, x), tolerance_of(kernels))
    assert not [k for k in engine.operations().values() if k.startswith("torch")]


@pytest.mark.parametrize("kernels", KERNELS + ROUGH)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_convolutions_of_small_images_with_wide_borders(kernels: str, data: st.DataObject) -> None:
    """Most pixels are near the border here, and many images are run at once: the case for dividing the output."""
    draw = data.draw
    kernel, dilation = draw(st.sampled_from([3, 5]), "kernel"), draw(st.integers(1, 2), "dilation")
    padding = draw(st.integers((kernel - 1) * dilation // 2, (kernel - 1) * dilation), "padding")
    channels, filters = (draw(st.integers(16, 48), n) for n in ("channels", "filters"))
    torch.manual_seed(draw(st.integers(0, 99), "seed"))
    stride = draw(st.integers(1, 2), "stride")
    layer = nn.Conv2d(channels, filters, kernel, stride, padding, dilation)
    size = (draw(st.integers(1, 8), "h"), draw(st.integers(1, 8), "w"))
    x = torch.randn(draw(st.integers(1, 20), "batch"), channels, *size)
    close(tn.compile(nn.Sequential(layer), x, kernels=kernels)(x), by_torch(layer, x), tolerance_of(kernels))


@pytest.mark.parametrize("kernels", KERNELS + ROUGH)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_poolings(kernels: str, data: st.DataObject) -> None:
    draw = data.draw
    kernel = (draw(st.integers(1, 4), "kernel h"), draw(st.integers(1, 4), "kernel w"))
    stride = (draw(st.integers(1, 3), "stride h"), draw(st.integers(1, 3), "stride w"))
    padding = (draw(st.integers(0, kernel[0] // 2), "padding h"), draw(st.integers(0, kernel[1] // 2), "padding w"))
    up = draw(st.booleans(), "ceil_mode")
    kind = draw(st.sampled_from(["max", "average", "adaptive average", "adaptive max"]), "kind")
    divisor = draw(st.sampled_from([None, None, 3]), "divisor")
    size = (draw(st.integers(1, 6), "rows"), draw(st.integers(1, 6), "columns"))
    layer: nn.Module = {
        "max": nn.MaxPool2d(kernel, stride, padding, ceil_mode=up),
        "average": nn.AvgPool2d(kernel, stride, padding, up, draw(st.booleans(), "count_include_pad"), divisor),
        "adaptive average": nn.AdaptiveAvgPool2d(size),
        "adaptive max": nn.AdaptiveMaxPool2d(size),
    }[kind]
    x = torch.randn(
        2, draw(st.integers(1, 35), "channels"), draw(st.integers(6, 13), "h"), draw(st.integers(6, 13), "w")
    )
    engine = tn.compile(nn.Sequential(layer), x, kernels=kernels)
    close(engine(x), by_torch(layer, x), tolerance_of(kernels))
    assert not [k for k in engine.operations().values() if k.startswith("torch")]


@pytest.mark.parametrize("kernels", KERNELS + ROUGH)
@pytest.mark.parametrize("batch", [1, 2, 3, 6, 7, 50])
@pytest.mark.parametrize(("features", "outputs"), [(1, 1), (17, 100), (300, 16)])
def test_linear_layers(kernels: str, batch: int, features: int, outputs: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(features, outputs), nn.BatchNorm1d(outputs), nn.ReLU6()).eval()
    x = 5 * torch.randn(batch, features)
    close(tn.compile(model, x, kernels=kernels)(x), by_torch(model, x), tolerance_of(kernels))
