"""Sums in eight bits against a loop over whole numbers, and what a layer makes of them."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

import tapernet as tn
from tapernet.errors import ConfigError
from tapernet.measure.layers import layer_table
from tapernet.measure.termination import LayerTermination
from tapernet.nn.order import Termination
from tapernet.nn.rounded import rounded_sums, weight_steps
from tapernet.nn.terminating import TerminatingConv2d, terminating_layers


def by_loop(x: Tensor, weight: Tensor, start: Tensor) -> np.ndarray:
    """Each image and filter on its own, in whole numbers of Python, no padding."""
    result = []
    for image in x.numpy():
        most = np.float32(max(image.max(), -image.min(), 0))
        scale = np.float32(127 if image.min() < 0 else 255) / most if most > 0 else np.float32(1)
        bytes_in = np.rint(image * scale).astype(np.int64)
        filters = []
        for of_filter, first in zip(weight.numpy(), start.numpy(), strict=True):
            step = np.abs(of_filter).max() / np.float32(127)
            taps = np.rint(of_filter / step).astype(np.int64)
            rows, columns = (a - b + 1 for a, b in zip(image.shape[1:], taps.shape[1:], strict=True))
            sums = [
                [int((bytes_in[:, i : i + taps.shape[1], j : j + taps.shape[2]] * taps).sum()) for j in range(columns)]
                for i in range(rows)
            ]
            filters.append(np.array(sums) * float(step) / float(scale) + float(first))
        result.append(filters)
    return np.array(result)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_sums_are_those_of_a_loop(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 99), "seed"))
    channels, filters, kernel = (data.draw(st.integers(1, most)) for most in (20, 5, 3))
    x = torch.rand(2, channels, 6, 5) - data.draw(st.sampled_from([0.0, 0.3, 1.0]), "lowest")
    weight, start = torch.randn(filters, channels, kernel, kernel), torch.randn(filters)
    found = rounded_sums(F.conv2d, x, weight, weight_steps(weight), start, F.conv2d(x, weight, start))
    torch.testing.assert_close(found.double(), torch.from_numpy(by_loop(x, weight, start)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("products", [4001, 8256, 40_001])
def test_sums_of_many_large_bytes_are_exact(products: int) -> None:
    weight, x = torch.ones(1, products, 1, 1), torch.ones(1, products, 1, 1)
    x[0, ::2] = 254 / 255
    found = rounded_sums(F.conv2d, x, weight, weight_steps(weight), None, F.conv2d(x, weight))
    lower = (products + 1) // 2
    assert found.item() == pytest.approx(products - lower / 255, rel=1e-7)


def test_images_of_zeros_and_of_no_numbers() -> None:
    weight, start = torch.randn(3, 2, 2, 2), torch.randn(3)
    x = torch.zeros(3, 2, 4, 4)
    x[1, 0, 0, 0], x[2, 0, 0, 0] = torch.nan, torch.inf
    full = F.conv2d(x, weight, start)
    found = rounded_sums(F.conv2d, x, weight, weight_steps(weight), start, full)
    torch.testing.assert_close(found[0], full[0])
    torch.testing.assert_close(found[1:], full[1:], equal_nan=True)


def test_the_gradient_is_that_of_the_full_sums() -> None:
    x, weight = torch.rand(2, 3, 5, 5, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    full = F.conv2d(x, weight)
    found = rounded_sums(F.conv2d, x, weight, weight_steps(weight), None, full)
    gradients = torch.autograd.grad(found.square().sum(), (x, weight))
    expected = torch.autograd.grad((2 * found.detach() * F.conv2d(x, weight)).sum(), (x, weight))
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 4}, "8 bits, not 4"), ({"bits": 8.0}, "whole"), ({"bits": 8, "share": 0.5}, "or bits"),
        ({}, "or bits"),
    ],
)  # fmt: skip
def test_checks_that_cannot_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tn.Check(**arguments)  # type: ignore[arg-type]


def test_it_stands_alone() -> None:
    layer = TerminatingConv2d(3, 4, 3)
    with pytest.raises(ConfigError, match="the only one of its layer"):
        layer.set_checks([tn.Check(bits=8), tn.Check(share=0.5)])


def test_the_gated_gradient_is_for_outputs_that_become_zero() -> None:
    layer = TerminatingConv2d(3, 4, 3, options=Termination(gradient="gated"))
    layer.set_checks([tn.Check(bits=8)])
    with pytest.raises(ConfigError, match=r"below 0\.5 is passed on"):
        layer.set_checks([tn.Check(bits=8, threshold=[0.0, 0.5, 0.0, 0.0])])


def stopping(bias_first: bool = True) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16)
    net = tn.terminate(tn.zoo.create("c10net", input_shape=(3, 16, 16)), x, bias_first=bias_first).eval()
    for layer in terminating_layers(net).values():
        layer.set_checks([tn.Check(bits=8)])
    return net, x


def test_hardly_anything_is_lost_and_all_products_of_a_stopped_output_are_saved() -> None:
    net, x = stopping()
    layer = terminating_layers(net)["conv1"]
    outcomes = []
    layer.observer = outcomes.append
    full = F.conv2d(x, layer.weight, layer.bias, padding=2)
    emitted = layer(x)
    (outcome,) = outcomes
    assert outcome.stopped.float().mean() == pytest.approx((full < 0).float().mean().item(), abs=0.02)
    assert torch.equal(emitted[~outcome.stopped], full[~outcome.stopped])
    assert (F.relu(emitted) - F.relu(full)).abs().max() < 0.01 * full.abs().max()
    assert int(outcome.saved().sum()) == int(outcome.stopped.sum()) * (layer.terms - 1)


def test_below_a_threshold_above_zero_the_rounded_sum_is_passed_on() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 20, 9, 9) - 0.3
    layer = TerminatingConv2d(20, 6, 3, options=Termination(bias_first=True)).eval()
    layer.set_checks([tn.Check(bits=8, threshold=0.2)])
    outcomes = []
    layer.observer = outcomes.append
    with torch.inference_mode():
        found, full = layer(x), F.conv2d(x, layer.weight, layer.bias)
    assert layer.bias is not None
    rounded = torch.from_numpy(by_loop(x, layer.weight.detach(), layer.bias.detach())).float()
    assert ((rounded > 0) & (rounded < 0.2)).any()
    torch.testing.assert_close(found, torch.where(rounded < 0.2, rounded, full))
    (outcome,) = outcomes
    count = LayerTermination("layer")
    count.add(outcome)
    wrong = (full.relu() - rounded.relu()).abs()[(rounded < 0.2) & (full >= 0)].sum().item()
    assert count.situations["false negative"].error == pytest.approx(wrong, rel=1e-4)


def test_training_goes_by_the_full_sums() -> None:
    net, x = stopping(bias_first=False)
    layer = terminating_layers(net)["conv1"].train()
    assert layer.bias is not None
    full = F.conv2d(x, layer.weight, layer.bias, padding=2)
    expected = torch.where(full - layer.bias[:, None, None] < 0, full - layer.bias[:, None, None], full)
    torch.testing.assert_close(layer(x), expected)
    with tn.estimating_macs(net):
        net.train()(x)
        tn.mac_penalty(net).backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 0


def test_it_is_saved_with_the_network_and_goes_along_when_a_part_is_taken(tmp_path: Path) -> None:
    net, x = stopping()
    tn.save(net, tmp_path / "net")
    again = tn.load(tmp_path / "net")
    assert terminating_layers(again)["conv2"].checks == (tn.Check(bits=8),)
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(x), net(x))
    both = tn.terminate(tn.taper(tn.zoo.create("c10net", input_shape=(3, 16, 16)), x), x, bias_first=True)
    for layer in terminating_layers(both).values():
        layer.set_checks([tn.Check(bits=8, threshold=[-0.01] * layer.out_channels)])
    part = tn.extract(both, 0.5)
    assert terminating_layers(part)["conv1"].checks == (tn.Check(bits=8, threshold=[-0.01] * 16),)


def test_the_table_of_layers_says_what_is_not_counted() -> None:
    net, x = stopping()
    console = Console(width=200, file=StringIO())
    console.print(layer_table(net, tn.count_termination(net, (x, torch.zeros(len(x), dtype=torch.long)))))
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "all 801, in bytes" in printed
    assert "Products of bytes are not counted" in printed
