"""Norms and slopes of the kept channels against torch's layers over those channels."""

import pytest
import torch
from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.nn import norm
from tapernet.nn.group import ChannelGroup, Layout, Span
from tapernet.nn.prefix import PrefixModule

SHAPES = {1: (5,), 2: (4, 3), 3: (2, 3, 4)}


def layout(percent: int, size: int = 8, multiple: int = 1) -> Layout:
    group = ChannelGroup("g", size, ["linear"], multiple=multiple)
    group.set_percent(percent)
    return Layout((Span(size, group),))


def scrambled(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.normal_(p)
    return layer


def check(layer: PrefixModule, reference: nn.Module, x: Tensor) -> None:
    for name, p in reference.named_parameters():
        p.data.copy_(layer.get_parameter(name)[: len(p)])
    torch.testing.assert_close(layer(x), reference(x))
    small = layer.extracted()
    torch.testing.assert_close(small(x), layer(x))
    assert type(small) is type(reference)
    assert repr(small) == repr(reference)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("percent", [1, 50, 100])
def test_batch_norm_in_training_uses_the_batch(dims: int, percent: int) -> None:
    kind = getattr(nn, f"BatchNorm{dims}d")
    kept = layout(percent)
    layer = getattr(norm, f"PrefixBatchNorm{dims}d").of(scrambled(kind(8)), kept, kept).train()
    reference, x = kind(kept.kept), torch.randn(3, kept.kept, *SHAPES[dims])
    for name, p in reference.named_parameters():
        p.data.copy_(layer.get_parameter(name)[: len(p)])
    torch.testing.assert_close(layer(x), reference(x))
    with pytest.raises(ConfigError, match="no batch-norm statistics"):
        layer.eval()(x)


def test_batch_norm_checks_the_dimensions() -> None:
    layer = norm.PrefixBatchNorm2d.of(nn.BatchNorm2d(8), layout(50), layout(50))
    with pytest.raises(ValueError, match="expected 4D"):
        layer(torch.zeros(2, 4))


def test_batch_norm_resets() -> None:
    layer = norm.PrefixBatchNorm1d.of(nn.BatchNorm1d(8), layout(100), layout(100))
    assert layer.keys() == ["100"]
    layer.reset_parameters()
    assert layer.keys() == []


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm(dims: int, affine: bool) -> None:
    kind, kept = getattr(nn, f"InstanceNorm{dims}d"), layout(50)
    layer = getattr(norm, f"PrefixInstanceNorm{dims}d").of(scrambled(kind(8, affine=affine)), kept, kept)
    check(layer, kind(4, affine=affine), torch.randn(2, 4, *SHAPES[dims]))


@pytest.mark.parametrize(("percent", "kept"), [(1, 2), (25, 2), (50, 4), (60, 6), (100, 8)])
def test_group_norm_keeps_whole_groups_as_they_were(percent: int, kept: int) -> None:
    full = scrambled(nn.GroupNorm(4, 8))
    channels = layout(percent, multiple=2)
    layer, x = norm.PrefixGroupNorm.of(full, channels, channels), torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(layer(x[:, :kept]), full(x)[:, :kept])
    check(layer, nn.GroupNorm(kept // 2, kept), x[:, :kept])


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_of_one_group_is_over_what_is_kept(affine: bool) -> None:
    layer = norm.PrefixGroupNorm.of(scrambled(nn.GroupNorm(1, 8, affine=affine)), layout(40), layout(40))
    check(layer, nn.GroupNorm(1, 3, affine=affine), torch.randn(2, 3, 4, 4))


def test_layer_norm_is_over_what_is_kept() -> None:
    layer = norm.PrefixLayerNorm.of(scrambled(nn.LayerNorm(8)), layout(40), layout(40))
    check(layer, nn.LayerNorm(3), torch.randn(2, 5, 3))
    plain = norm.PrefixLayerNorm.of(nn.LayerNorm((8, 2), elementwise_affine=False), layout(50), layout(50))
    check(plain, nn.LayerNorm((4, 2), elementwise_affine=False), torch.randn(3, 4, 2))


def test_prelu() -> None:
    layer = norm.PrefixPReLU.of(scrambled(nn.PReLU(8)), layout(50), layout(50))
    check(layer, nn.PReLU(4), torch.randn(2, 4, 3, 3))
