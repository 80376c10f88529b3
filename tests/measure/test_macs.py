import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tapernet import calibrate, count_parameters, layer_macs, taper, total_macs, zoo
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
