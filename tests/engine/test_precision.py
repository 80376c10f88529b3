"""Products of some bfloat16 in place of each float32: of three, which lose nothing, or of two."""

import pytest
import torch
from engine_reference import KERNELS, ROUGH, by_torch, close, needs_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tapernet as tn
from tapernet.engine.native import extension
from tapernet.errors import ConfigError

pytestmark = needs_kernels
needs_rough = pytest.mark.skipif(not ROUGH, reason="the processor does not multiply tiles of bfloat16")

SHAPES = {"mlp": (1, 28, 28)}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown precision 'hi'.*high"):
        tn.compile(nn.Linear(3, 2), torch.zeros(1, 3), precision="hi")


def test_high_precision_is_a_wish_and_an_instruction_set_an_order() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3)), torch.randn(2, 3, 9, 9)
    best = extension().kernels()[0]
    assert tn.compile(model, x).kernels == best
    assert tn.compile(model, x, precision="high").kernels == (ROUGH[0] if ROUGH else best)
    assert tn.compile(model, x, precision="high", kernels="portable").kernels == "portable"


@pytest.mark.parametrize("name", sorted(tn.zoo.NETWORKS))
def test_networks_are_as_close_as_sixteen_bits_can_be(name: str) -> None:
    """Two bfloat16 hold 16 bits of 24: an error of 2**-16 at most, which layers pass on."""
    torch.manual_seed(0)
    shape = SHAPES.get(name, (3, 32, 32))
    model, x = tn.zoo.create(name, input_shape=shape).eval(), torch.randn(3, *shape)
    close(tn.compile(model, x, precision="high")(x), by_torch(model, x), 1e-4)


BITS = dict.fromkeys(KERNELS, 21) | dict.fromkeys(ROUGH, 16)
"""Of a product that are right, at least; for a sum in float32 fewer than its 24."""


@pytest.mark.parametrize("kernels", BITS)
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
    assert float(((found - exact).abs() / sizes).max()) < 2.0 ** -BITS[kernels]


@pytest.mark.skipif("amx-bf16x6" not in KERNELS, reason="the processor does not multiply tiles of bfloat16")
@pytest.mark.parametrize("size", [8, 16, 23])
def test_large_layers_are_multiplied_by_tiles(size: int) -> None:
    """The sums are rounded otherwise than those of vectors, a few times in the last bit."""
    layer, x = nn.Sequential(nn.Conv2d(64, 48, 3, padding=1)), torch.randn(9, 64, size, size)
    tiles, vectors = (tn.compile(layer, x, kernels=kernels)(x) for kernels in ("amx-bf16x6", "avx512"))
    assert not torch.equal(tiles, vectors)
    close(tiles, vectors, 1e-6)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3.4e38, -3.395e38])
@pytest.mark.parametrize("where", ["input", "weight"])
def test_what_has_no_pieces_stays_where_it_is(kernels: str, value: float, where: str) -> None:
    """An infinity, or a number with no bfloat16 near it, is multiplied as torch does, and reaches no other output."""
    torch.manual_seed(4)
    layer, x = nn.Conv2d(40, 24, 3, padding=1), torch.randn(2, 40, 16, 17)
    with torch.no_grad():
        layer.weight.mul_(0.1)  # a sum of the great numbers stays finite
        (x if where == "input" else layer.weight)[1, 7, 2, 1] = value
    model = nn.Sequential(layer)
    torch.testing.assert_close(
        tn.compile(model, x, kernels=kernels)(x), by_torch(model, x), rtol=1e-5, atol=1e-5, equal_nan=True
    )


@needs_rough
def test_every_budget_reads_the_same_halves() -> None:
    torch.manual_seed(2)
    x = torch.randn(5, 3, 32, 32)
    net = tn.taper(tn.zoo.create("c10net"), x, profile="linear").eval()
    engine = tn.compile(net, precision="high")
    floats = tn.compile(net)
    assert engine.weight_bytes < 1.1 * floats.weight_bytes
    for budget in (1.0, 0.73, 0.5, 0.2, 0.05):
        with net.at(budget):
            close(engine(x, budget=budget), by_torch(net, x), 2e-5)


@needs_rough
def test_threads_give_the_same_result() -> None:
    torch.manual_seed(3)
    model = tn.zoo.create("c10net").eval()
    for batch in (1, 7):
        x = torch.randn(batch, 3, 32, 32)
        one = tn.compile(model, x, precision="high")(x)
        assert torch.equal(tn.compile(model, x, precision="high", threads=3)(x), one)
