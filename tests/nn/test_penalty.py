"""The differentiable MAC penalty against what was really done."""

import pytest
import torch
from torch import Tensor, nn

from tapernet import zoo
from tapernet.convert.terminate import terminate
from tapernet.errors import ConfigError
from tapernet.measure.termination import count_termination
from tapernet.nn.check import Check
from tapernet.nn.penalty import estimating_macs, mac_penalty
from tapernet.nn.terminating import terminating_layers

SHAPE = (3, 12, 12)


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = terminate(zoo.create("c10net", input_shape=SHAPE), torch.zeros(1, *SHAPE))
    net.conv1.set_checks([Check(position=7)])
    net.conv2.set_checks([Check(share=0.05), Check(share=0.32)])
    return net, torch.randn(4, *SHAPE)


def test_at_a_low_temperature_it_is_the_share_done() -> None:
    net, x = network()
    report = count_termination(net, x)
    done, total = (sum(getattr(layer, name) for layer in report.layers) for name in ("done", "total"))
    with estimating_macs(net, temperature=1e-6):
        net(x)
        assert mac_penalty(net).item() == pytest.approx(done / total, abs=1e-4)


def test_descending_it_saves_macs() -> None:
    net, x = network()
    before = count_termination(net, x).saved
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with estimating_macs(net):
        for _ in range(10):
            net(x)
            optimizer.zero_grad()
            mac_penalty(net).backward()
            optimizer.step()
    assert count_termination(net, x).saved > before + 0.02


def test_the_output_is_the_same_with_it() -> None:
    net, x = network()
    out = net(x)
    with estimating_macs(net):
        assert torch.equal(net(x), out)


def test_it_is_read_once_and_ends_with_the_block() -> None:
    net, x = network()
    with estimating_macs(net):
        net(x)
        mac_penalty(net)
        with pytest.raises(ConfigError, match="no estimate"):
            mac_penalty(net)
        net(x)
    with pytest.raises(ConfigError, match="no estimate"):
        mac_penalty(net)
    assert all(layer.temperature is None for layer in terminating_layers(net).values())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(ConfigError, match="positive"), estimating_macs(network()[0], temperature):
        pass


def test_a_network_that_does_not_terminate() -> None:
    with pytest.raises(ConfigError, match="call terminate"), estimating_macs(nn.Linear(1, 1)):
        pass
