"""Convolutions by products are those of torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tapernet.train.small_maps import ByProducts, SmallMaps


@pytest.mark.parametrize(
    ("kernel", "padding"), [((3, 3), (1, 1)), ((1, 1), (0, 0)), ((5, 3), (2, 0)), ((3, 4), (0, 1))]
)
@pytest.mark.parametrize("few", [0, 9, 16])
def test_gradients_are_those_of_finite_differences(
    kernel: tuple[int, int], padding: tuple[int, int], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapernet.train.small_maps.FEW_PIXELS", few)
    torch.manual_seed(0)
    input, bias = torch.randn(2, 3, 5, 4).double(), torch.randn(4).double()
    weight = torch.randn(4, 3, *kernel).double()
    assert torch.autograd.gradcheck(
        lambda *tensors: ByProducts.apply(*tensors, padding), [t.requires_grad_() for t in (input, weight, bias)]
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("options", "side", "taken"),
    [
        ({}, 4, True), ({"bias": False}, 4, True), ({"kernel_size": 1, "padding": 0}, 2, True), ({}, 16, False),
        ({"stride": 2}, 4, False), ({"groups": 2}, 4, False), ({"dilation": 2, "padding": 2}, 4, False),
        ({}, 3, True), ({"out_channels": 4096}, 4, True), ({"padding": 3}, 1, False),
        ({"padding": "same"}, 4, False), ({"padding_mode": "circular"}, 4, True),
    ],
)  # fmt: skip
def test_a_step_in_bfloat16_has_the_gradients_of_full_precision(
    options: dict[str, object], side: int, taken: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(**{"in_channels": 32, "out_channels": 48, "kernel_size": 3, "padding": 1} | options)  # type: ignore[arg-type]
    layer.to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(8, 32, side, side).to(memory_format=layout).requires_grad_()
    calls = []
    forward = ByProducts.forward
    monkeypatch.setattr(ByProducts, "forward", staticmethod(lambda *given: calls.append(1) or forward(*given)))
    tensors = [images, *layer.parameters()]
    expected = torch.autograd.grad(layer(images).square().sum(), tensors)
    with SmallMaps(), torch.autocast("cpu", torch.bfloat16):
        out = layer(images)
    assert out.dtype == torch.bfloat16
    assert bool(calls) == taken
    for found, wanted in zip(torch.autograd.grad(out.float().square().sum(), tensors), expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_nothing_else_is_touched() -> None:
    weight, images = torch.randn(32, 32, 3, 3, requires_grad=True), torch.randn(1, 32, 4, 4)
    with SmallMaps():
        assert torch.equal(F.conv2d(images, weight), torch.conv2d(images, weight))
        assert F.conv2d(images, weight).dtype == torch.float32  # no autocast
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert F.conv2d(images, weight, padding=1).shape == (1, 32, 4, 4)
