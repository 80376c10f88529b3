"""Single layers of random shapes against torch."""

import pytest
import torch
from engine_reference import KERNELS, by_torch, close, needs_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tapernet as tn
from tapernet.errors import ConfigError

pytestmark = needs_kernels


@pytest.mark.parametrize("kernels", KERNELS)
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
    close(engine(x), by_torch(model, x))
    assert not [k for k in engine.operations().values() if k.startswith("torch")]


@pytest.mark.parametrize("kernels", KERNELS)
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
    close(tn.compile(nn.Sequential(layer), x, kernels=kernels)(x), by_torch(layer, x))


@pytest.mark.parametrize("kernels", KERNELS)
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
    close(engine(x), by_torch(layer, x))
    assert not [k for k in engine.operations().values() if k.startswith("torch")]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("batch", [1, 2, 3, 6, 7, 50])
@pytest.mark.parametrize(("features", "outputs"), [(1, 1), (17, 100), (300, 16)])
def test_linear_layers(kernels: str, batch: int, features: int, outputs: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(features, outputs), nn.BatchNorm1d(outputs), nn.ReLU6()).eval()
    x = 5 * torch.randn(batch, features)
    close(tn.compile(model, x, kernels=kernels)(x), by_torch(model, x))


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_product_keeps_its_bits(kernels: str, data: st.DataObject) -> None:
    """Against double precision, as a share of the sum of the products' sizes: nothing is hidden by what cancels."""
    channels, filters, size = (data.draw(st.integers(1, 70), n) for n in ("channels", "filters", "size"))
    torch.manual_seed(data.draw(st.integers(0, 99), "seed"))
    layer = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
    scale = 10.0 ** data.draw(st.integers(-6, 6), "exponent")
    x = torch.randn(2, channels, size % 20 + 1, size % 33 + 1) * scale
    found = tn.compile(nn.Sequential(layer), x, kernels=kernels)(x)
    with torch.no_grad():
        exact = layer.double()(x.double())
        layer.weight.abs_()
        sizes = layer(x.double().abs())
    assert float(((found - exact).abs() / sizes).max()) < 2.0**-21


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3.4e38, -3.395e38])
@pytest.mark.parametrize("where", ["input", "weight"])
def test_what_is_not_finite_stays_where_it_is(kernels: str, value: float, where: str) -> None:
    """An infinity or a number near it is multiplied as torch does, and reaches no other output."""
    torch.manual_seed(4)
    layer, x = nn.Conv2d(40, 24, 3, padding=1), torch.randn(2, 40, 16, 17)
    with torch.no_grad():
        layer.weight.mul_(0.1)  # a sum of the great numbers stays finite
        (x if where == "input" else layer.weight)[1, 7, 2, 1] = value
    model = nn.Sequential(layer)
    torch.testing.assert_close(
        tn.compile(model, x, kernels=kernels)(x), by_torch(model, x), rtol=1e-5, atol=1e-5, equal_nan=True
    )


def test_a_variable_caps_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3)), torch.randn(2, 3, 9, 9)
    for i, kernels in enumerate(KERNELS):
        monkeypatch.setenv("TAPERNET_KERNELS", kernels)
        engine = tn.compile(model, x)
        assert engine.kernels == kernels
        close(engine(x), by_torch(model, x))
        for better in KERNELS[:i]:
            with pytest.raises(ConfigError, match=f"unknown instruction set '{better}'"):
                tn.compile(model, x, kernels=better)
    monkeypatch.setenv("TAPERNET_KERNELS", "sse9")
    with pytest.raises(ConfigError, match=r"TAPERNET_KERNELS: unknown instruction set 'sse9'.*portable"):
        tn.compile(model, x)
