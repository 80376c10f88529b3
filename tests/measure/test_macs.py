import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tapernet import calibrate, count_parameters, extract, layer_macs, taper, total_macs, zoo
from tapernet.budget import kept_count
from tapernet.errors import ConfigError


def test_the_papers_mlp_by_hand() -> None:
    net = taper(zoo.create("mlp"), torch.zeros(1, 1, 28, 28), keep=["fc2"])
    for percent in range(1, 101):
        k = kept_count(100, percent)
        with net.at(percent / 100):
            macs = total_macs(net, torch.zeros(1, 28, 28))
            assert macs.usual == 784 * k + k * 100 + 100 * 10
            assert macs.paper == 785 * k + (k + 1) * 100 + 101 * 10
            assert count_parameters(net) == macs.paper  # in a fully connected network each number is used once


def convolution_loop(x: torch.Tensor, conv: nn.Conv2d) -> int:
    """Products of a convolution, counted one output at a time; padding is multiplied too, as a dense kernel does."""
    out = conv(x)
    _, filters, height, width = out.shape
    count = 0
    for f in range(filters):
        for _ in range(height * width):
            count += conv.weight[f].numel()
    return count


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.sampled_from([1, 2]), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.booleans()
)
def test_a_convolution_is_counted_as_a_loop_counts_it(
    width: int, groups: int, kernel: int, stride: int, padding: int, bias: bool
) -> None:
    conv = nn.Conv2d(2 * groups, width * groups, kernel, stride, padding, groups=groups, bias=bias)
    x = torch.zeros(1, 2 * groups, 6, 5)
    found = layer_macs(nn.Sequential(conv), x)["0"]
    assert found.usual == convolution_loop(x, conv)
    assert found.paper == found.usual + (conv(x).numel() if bias else 0)


@pytest.mark.parametrize("name", ["mlp", "c10net", "vgg16", "resnet", "mobilenetv2"])
@pytest.mark.parametrize("budget", [1.0, 0.5, 0.2])
def test_macs_agree_with_torchs_flop_counter(name: str, budget: float) -> None:
    image = torch.zeros(1, 1, 28, 28) if name == "mlp" else torch.zeros(1, 3, 32, 32)
    net = taper(zoo.create(name), image).train()
    with net.at(budget):
        macs = total_macs(net, image).usual
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(image.expand(2, -1, -1, -1))
    assert counter.get_total_flops() == 2 * macs * 2  # two images, two operations in each product


def test_of_several_profiles_the_active_layers_alone_are_counted() -> None:
    """Those of the moment's range, as in the extracted network."""
    image = torch.zeros(1, 1, 28, 28)
    net = taper(zoo.create("mlp"), image, profile={0.1: "linear", 0.4: "all-one", 1.0: "linear"}, keep=["fc2"]).eval()
    for budget in (0.1, 0.3, 0.4, 1.0):
        with net.at(budget):
            assert total_macs(net, image) == total_macs(extract(net, budget), image)


class Functional(nn.Module):
    """Products that no module does by itself, on a module's own parameters and between values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.spare = nn.Conv2d(6, 6, 3, groups=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(self.conv(x), self.spare.weight, groups=3)
        tokens = y.flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens) + (tokens @ tokens.transpose(1, 2)) @ tokens
        return self.out(mixed.mean(1))


class Tokens(nn.Module):
    def __init__(self, *, need_weights: bool) -> None:
        super().__init__()
        self.embed, self.need = nn.Linear(8, 12), need_weights
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.block = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        out: torch.Tensor = self.block(self.attention(x, x, x, need_weights=self.need)[0]).mean(1)
        return out


PRODUCTS = {
    # A convolution of 7 x 6 outputs, a grouped one of 5 x 4, attention and two more products of 20 tokens, a row.
    "functional": 42 * 6 * 27 + 20 * 6 * 18 + 2 * 20 * 20 * 6 + 2 * 20 * 20 * 6 + 6 * 4,
    # An embedding, four maps and two products of an attention, the same and two maps of a transformer's layer.
    "tokens": 5 * 8 * 12 + 2 * (4 * 5 * 12 * 12 + 2 * 5 * 5 * 12) + 2 * 5 * 12 * 24,
}


@pytest.mark.parametrize(
    ("name", "net", "shape"),
    [
        ("functional", Functional(), (1, 3, 9, 8)),
        ("tokens", Tokens(need_weights=True), (1, 5, 8)),
        ("tokens", Tokens(need_weights=False), (1, 5, 8)),
    ],
)
def test_products_outside_layers_count(name: str, net: nn.Module, shape: tuple[int, ...]) -> None:
    image = torch.randn(shape)
    assert total_macs(net.eval(), image).usual == PRODUCTS[name]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net.train()(image)
    assert counter.get_total_flops() == 2 * PRODUCTS[name]


def test_statistics_are_neither_needed_nor_touched() -> None:
    x = torch.randn(4, 3, 8, 8)
    net = taper(zoo.create("resnet", depth=8, input_shape=(3, 8, 8)), x[:1])
    calibrate(net, [x], [0.5])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for budget in (0.5, 0.2, 1.0):
        with net.at(budget):
            assert total_macs(net, x[0]).usual > 0
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)
    with net.at(0.2), pytest.raises(ConfigError, match="no batch-norm statistics"):
        net.eval()(x)


def test_hooks_are_gone_even_after_an_error(plain: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        total_macs(plain, torch.zeros(1, 1, 9, 9))
    assert not any(m._forward_hooks for m in plain.modules())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, groups=2), (4, 9)),
        (nn.Conv3d(4, 6, (1, 2, 3), padding=1), (4, 3, 4, 5)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5)),
        (nn.ConvTranspose3d(4, 6, (3, 1, 2), stride=2, groups=2), (4, 2, 3, 4)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_other_convolutions_agree_with_the_flop_counter(layer: nn.Module, shape: tuple[int, ...]) -> None:
    net, x = nn.Sequential(layer), torch.zeros(1, *shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    assert counter.get_total_flops() == 2 * total_macs(net, x).usual
    assert total_macs(net, x) == total_macs(net, x[0])  # with or without a batch dimension
    assert total_macs(net, x).paper == total_macs(net, x).usual + net(x).numel()
