"""Layers that multiply: against loops over the kept terms, and by the work that they do."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tapernet.nn.group import ChannelGroup, Layout, Span
from tapernet.nn.prefix import PrefixConv1d, PrefixConv2d, PrefixConv3d, PrefixConvTranspose2d, PrefixLinear


def layout(size: int, percent: int, profile: str = "linear") -> Layout:
    group = ChannelGroup("g", size, [profile])
    group.set_percent(percent)
    return Layout((Span(size, group),))


sizes = st.integers(1, 6)
percents = st.integers(1, 100)


@settings(max_examples=25, deadline=None)
@given(sizes, sizes, percents, percents)
def test_linear_is_equation_1(n: int, m: int, p: int, q: int) -> None:
    full = nn.Linear(n, m)
    inputs, outputs = layout(n, p), layout(m, q)
    layer = PrefixLinear.of(full, inputs, outputs)
    x = torch.randn(2, inputs.kept)
    expected = torch.zeros(2, outputs.kept)
    for r, j in product(range(2), range(outputs.kept)):
        terms = [(1 - i / n) * full.weight[j, i].item() * x[r, i].item() for i in range(inputs.kept)]
        expected[r, j] = sum(terms) + full.bias[j].item()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.extracted()(x), expected)


def loop_conv(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor) -> Tensor:
    """Eq. 2 without padding or stride, one product after the other."""
    (n, channels, height, width), (filters, _, k, l) = x.shape, weight.shape  # noqa: E741
    out = torch.zeros(n, filters, height - k + 1, width - l + 1)
    for r, f, i, j in product(*map(range, out.shape)):
        out[r, f, i, j] = bias[f] + sum(
            gamma[c] * weight[f, c, u, v] * x[r, c, i + u, j + v]
            for c, u, v in product(range(channels), range(k), range(l))
        )
    return out


@settings(max_examples=10, deadline=None)
@given(sizes, sizes, percents, percents)
def test_convolution_is_equation_2(n: int, m: int, p: int, q: int) -> None:
    full = nn.Conv2d(n, m, (2, 3))
    inputs, outputs = layout(n, p), layout(m, q)
    x = torch.randn(1, inputs.kept, 3, 4)
    gamma = torch.tensor([1 - i / n for i in range(n)])
    with torch.no_grad():
        expected = loop_conv(x, full.weight[: outputs.kept, : inputs.kept], full.bias, gamma)
        layer = PrefixConv2d.of(full, inputs, outputs)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.extracted()(x), layer(x))


@pytest.mark.parametrize(
    ("full", "kind", "shape"),
    [
        (nn.Conv1d(6, 4, 3, 2, padding=1, padding_mode="reflect"), PrefixConv1d, (9,)),
        (nn.Conv2d(6, 4, 3, dilation=2, padding="same", bias=False), PrefixConv2d, (7, 6)),
        (nn.Conv3d(6, 4, 2, padding=1), PrefixConv3d, (3, 4, 5)),
        (nn.ConvTranspose2d(6, 4, 3, 2, padding=1, output_padding=1), PrefixConvTranspose2d, (4, 5)),
    ],
)
def test_options_of_the_layer_are_kept(full: nn.Module, kind: type, shape: tuple[int, ...]) -> None:
    """What is dropped is as if it were zero."""
    inputs, outputs = layout(6, 50), layout(4, 50)
    layer, x = kind.of(full, inputs, outputs), torch.randn(2, 3, *shape)
    gamma = torch.tensor([1, 5 / 6, 4 / 6]).view(3, *[1] * len(shape))
    padded = torch.cat([x * gamma, torch.zeros(2, 3, *shape)], 1)
    torch.testing.assert_close(layer(x), full(padded)[:, :2])
    torch.testing.assert_close(layer.extracted()(x), layer(x))


def test_transposed_convolution_to_a_given_size() -> None:
    full = nn.ConvTranspose2d(4, 4, 3, 2)
    layer, x = PrefixConvTranspose2d.of(full, layout(4, 100, "all-one"), layout(4, 50)), torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(layer(x, [8, 8]), full(x, [8, 8])[:, :2])


@pytest.mark.parametrize(("groups", "out"), [(6, 6), (6, 12), (3, 6), (2, 12)])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_grouped_convolutions_keep_whole_groups_and_wait_with_the_profile(kind: type, groups: int, out: int) -> None:
    full = kind(6, out, 3, groups=groups)
    group = ChannelGroup("g", 6, ["linear"], multiple=6 // groups)
    group.set_percent(50)
    inputs, outputs = Layout((Span(6, group),)), Layout((Span(6, group, out // 6),))
    prefix = {nn.Conv2d: PrefixConv2d, nn.ConvTranspose2d: PrefixConvTranspose2d}[kind]
    layer, x = prefix.of(full, inputs, outputs), torch.randn(2, inputs.kept, 4, 4)
    padded = F.pad(x, (0, 0, 0, 0, 0, 6 - inputs.kept))
    torch.testing.assert_close(layer(x), full(padded)[:, : outputs.kept])
    assert layer.groups == inputs.kept * groups // 6
    torch.testing.assert_close(layer.extracted()(x), layer(x))


@pytest.mark.parametrize("percent", [10, 25, 50, 100])
def test_work_is_the_smaller_layers(percent: int) -> None:
    """Forward and backward, by torch's own count."""
    kept = 40 * percent // 100
    for full, kind, shape in (
        (nn.Linear(40, 40), PrefixLinear, ()),
        (nn.Conv2d(40, 40, 3), PrefixConv2d, (5, 5)),
    ):
        layer = kind.of(full, layout(40, percent), layout(40, percent))
        with FlopCounterMode(display=False) as counted:
            layer(torch.randn(2, kept, *shape, requires_grad=True)).sum().backward()
        assert counted.get_total_flops() == 3 * 2 * 2 * kept * kept * (9 * 9 if shape else 1)


def test_parameters_keep_their_names_and_are_the_layers_own() -> None:
    full = nn.Linear(4, 4)
    layer = PrefixLinear.of(full, layout(4, 50), layout(4, 50))
    assert dict(layer.named_parameters()).keys() == {"weight", "bias"}
    assert layer.weight is full.weight
    assert layer.prefix() == {"weight": (slice(2), slice(2)), "bias": (slice(2),)}
    assert "bias" not in PrefixLinear.of(nn.Linear(4, 4, bias=False), layout(4, 50), layout(4, 50)).prefix()


def test_extracted_keeps_what_requires_no_gradient() -> None:
    full = nn.Linear(4, 4)
    full.weight.requires_grad_(False)
    small = PrefixLinear.of(full, layout(4, 50), layout(4, 50)).extracted()
    assert (small.weight.requires_grad, small.bias.requires_grad) == (False, True)
    assert type(small) is nn.Linear
    assert not hasattr(small, "inputs")
