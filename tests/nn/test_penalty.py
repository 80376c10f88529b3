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
    net.conv2.set_checks([Check(share=0.05), Check(share=0.32), Check(share=0.7)])
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


def shares(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Each layer's estimated share done, from its definition."""
    found, seen = {}, {}
    for path, layer in terminating_layers(net).items():
        layer.register_forward_hook(lambda _, inputs, __, path=path: seen.update({path: inputs[0]}))
    net(x)
    for path, layer in terminating_layers(net).items():
        going, saved = 1.0, torch.zeros(())
        for check in layer.checks:
            (position, *_), terms = check.positions(layer.terms, layer.terms, layer.out_channels), layer.terms
            flat = layer.weight.flatten(1)
            kept = torch.zeros_like(flat).scatter(1, flat.abs().argsort(1, descending=True)[:, :position], 1.0)
            u = nn.functional.conv2d(seen[path], (flat * kept).view_as(layer.weight), padding=layer.padding)
            stop = going * torch.sigmoid(-u / (0.1 * u.detach().std()))
            saved, going = saved + (stop * (terms - position - 1)).mean() / terms, going - stop
        found[path] = 1 - saved
    return found


def test_weights_average_the_layers_shares() -> None:
    net, x = network()
    weights = {"conv1": 3.0, "conv2": 1.0}
    by_hand = shares(net, x)
    expected = torch.autograd.grad(0.75 * by_hand["conv1"] + 0.25 * by_hand["conv2"], net.conv1.weight)[0]
    with estimating_macs(net):
        net(x)
        penalty = mac_penalty(net, weights)
    assert penalty.item() == pytest.approx((0.75 * by_hand["conv1"] + 0.25 * by_hand["conv2"]).item(), rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(penalty, net.conv1.weight)[0], expected, rtol=1e-4, atol=1e-7)


def test_weights_as_large_as_the_macs_change_nothing() -> None:
    net, x = network()
    macs = {layer.path: float(layer.total) for layer in count_termination(net, x).layers}
    with estimating_macs(net):
        net(x)
        usual = mac_penalty(net)
        net(x)
        torch.testing.assert_close(mac_penalty(net, macs), usual)


def test_a_weight_for_a_layer_that_is_not_there() -> None:
    net, x = network()
    with estimating_macs(net):
        net(x)
        with pytest.raises(ConfigError, match="did you mean 'conv2'"):
            mac_penalty(net, {"conv_2": 1.0})


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


def test_a_batch_without_images_costs_nothing() -> None:
    net, x = network()
    with estimating_macs(net):
        net(x[:0])
        penalty = mac_penalty(net)
    assert penalty.item() == 0
