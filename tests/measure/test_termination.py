"""MACs and decisions of terminating networks against sums taken with numpy."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet import zoo
from tapernet.convert.taper import taper
from tapernet.convert.terminate import terminate
from tapernet.errors import ConfigError, DataError
from tapernet.measure.macs import total_macs
from tapernet.measure.termination import (
    TABLE_1_ITERATIONS,
    LayerTermination,
    by_iteration,
    count_termination,
    measure_inputs,
    observing,
)
from tapernet.nn.check import Check
from tapernet.nn.terminating import Outcome, terminating_layers

SHAPE = (3, 12, 12)


def images(n: int = 5) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    stopping = terminate(zoo.create("c10net", input_shape=SHAPE), torch.zeros(1, *SHAPE))
    stopping.conv1.set_checks([Check(position=7)])
    stopping.conv3.set_checks([Check(share=0.05), Check(share=0.32, threshold=-0.01)])
    return stopping.eval()


def sums(layer: nn.Conv2d, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Partial sums after each tap, largest weight first, shape (n, filters, taps, places); and the full ones."""
    columns = F.unfold(x, layer.kernel_size, padding=layer.padding).numpy().astype(np.float64)
    weight = layer.weight.detach().flatten(1).numpy().astype(np.float64)
    order = np.argsort(-np.abs(weight), axis=1, kind="stable")
    partial = np.stack(
        [np.cumsum(columns[:, order[f]] * weight[f, order[f]][None, :, None], 1) for f in range(len(weight))], 1
    )
    return partial, partial[:, :, -1] + layer.bias.detach().numpy()[None, :, None]


def test_table_2_of_the_first_layer(net: nn.Module) -> None:
    partial, full = sums(net.conv1, images())
    stopped, negative = partial[:, :, 6] < 0, full < 0
    expected = {
        "true positive": (~stopped & ~negative, 76),
        "true negative": (stopped & negative, 8),
        "false positive": (~stopped & negative, 76),
        "false negative": (stopped & ~negative, 8),
    }
    layer = count_termination(net, images(), batch_size=2).layers[0]
    assert (layer.path, layer.terms, layer.outputs) == ("conv1", 76, full.size)
    for name, (mask, each) in expected.items():
        found = layer.situations[name]
        assert (found.count, found.macs) == (mask.sum(), mask.sum() * each), name
        assert found.error == pytest.approx(full[mask].sum() if name == "false negative" else 0, rel=1e-5)
    assert layer.right_stops == pytest.approx((stopped & negative).sum() / stopped.sum())


def test_the_error_of_a_stop_that_emits_something_above_zero() -> None:
    model = nn.Sequential(nn.Conv2d(4, 2, 1, bias=False), nn.ReLU())
    # Sums after the first tap, and full ones: 3 and -3, which ReLU would make zero; 3 and 4.
    weights = torch.tensor([[3.0, -2, -2, -2], [3.0, 2, -2, 1]])
    with torch.no_grad():
        model[0].weight.copy_(weights.view(2, 4, 1, 1))
    stopping = terminate(model, torch.ones(1, 4, 1, 1))
    stopping[0].set_checks([Check(position=1, threshold=5)])
    situations = count_termination(stopping, torch.ones(1, 4, 1, 1)).layers[0].situations
    assert (situations["true negative"].count, situations["true negative"].error) == (1, 3)
    assert (situations["false negative"].count, situations["false negative"].error) == (1, 1)


def test_totals(net: nn.Module) -> None:
    report = count_termination(net, images(), batch_size=2)
    assert [layer.path for layer in report.layers] == ["conv1", "conv2", "conv3"]
    assert report.images == 5
    assert report.total == total_macs(net, images()[0]).paper
    assert report.others == {"fc1": 64 * 65, "fc2": 10 * 65}
    done = sum(layer.done for layer in report.layers) / 5 + sum(report.others.values())
    assert report.done == pytest.approx(done)
    assert report.saved == pytest.approx(1 - done / report.total)
    assert report.layers[1].saved == 0
    assert report.layers[1].situations["true negative"].count == 0


def test_each_image_is_counted_by_itself(net: nn.Module) -> None:
    together = count_termination(net, images()).done_per_image
    alone = [count_termination(net, image[None]).done_per_image.item() for image in images()]
    assert together.tolist() == alone
    assert len(set(alone)) > 1


def test_the_report_as_json_and_as_text(net: nn.Module) -> None:
    report = count_termination(net, images())
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["layers"][2]["situations"]["true negative"]["count"] > 0
    assert plain["saved"] == report.saved
    assert f"{report.saved:.1%} saved" in str(report)
    assert "conv3" in str(report)


def test_mode_is_kept_and_nobody_watches_afterwards(net: nn.Module) -> None:
    net.train()
    net.dropout.eval()
    count_termination(net, images())
    assert net.training
    assert not net.dropout.training
    assert all(layer.observer is None for layer in terminating_layers(net).values())


def test_watching_ends_with_an_error(net: nn.Module) -> None:
    with pytest.raises(RuntimeError), observing(net, lambda *_: None):
        net(torch.zeros(1, 1, 1, 1))
    assert all(layer.observer is None for layer in terminating_layers(net).values())


def test_table_1(net: nn.Module) -> None:
    partial, full = sums(net.conv1, images())
    rows = by_iteration(net, "conv1", images(), batch_size=2)
    assert [row.iteration for row in rows] == list(TABLE_1_ITERATIONS)
    for row in rows:
        stopped = partial[:, :, row.iteration - 1] < 0
        assert row.right == pytest.approx((stopped & (full < 0)).sum() / stopped.sum())
        assert row.saved == pytest.approx(stopped.mean() * (75 - row.iteration) / 76)
    assert net.conv1.checks == (Check(position=7),)


def test_table_1_of_a_later_layer_keeps_the_checks_before_it(net: nn.Module) -> None:
    (row,) = by_iteration(net, "conv3", images(), iterations=[40])
    net.conv3.set_checks([Check(position=40)])
    layer = count_termination(net, images()).layers[2]
    assert (row.right, row.saved) == (layer.right_stops, layer.saved)


def test_no_stop_has_no_share_of_right_ones(net: nn.Module) -> None:
    net.conv1.set_checks([])
    assert math.isnan(count_termination(net, images()).layers[0].right_stops)


def test_expected_order_sees_the_mean_size_of_inputs(net: nn.Module) -> None:
    scale = torch.tensor([0.1, 1.0, 10.0]).view(1, 3, 1, 1)
    measure_inputs(net, images() * scale, batch_size=2)
    assert torch.allclose(net.conv1.input_mean, (images() * scale).abs().mean((0, 2, 3)))
    assert len(net.conv1.checks) == 1
    hidden = net.conv1.weight.new_zeros(0)
    handle = net.conv2.register_forward_pre_hook(lambda _, inputs: hidden.set_(inputs[0]))
    net.conv1.set_checks([])
    with torch.no_grad():
        net(images() * scale)
    handle.remove()
    assert torch.allclose(net.conv2.input_mean, hidden.abs().mean((0, 2, 3)))


def test_a_network_with_a_dial() -> None:
    torch.manual_seed(0)
    net = terminate(taper(zoo.create("c10net", input_shape=SHAPE), torch.zeros(1, *SHAPE)), torch.zeros(1, *SHAPE))
    for layer in terminating_layers(net).values():
        layer.set_checks([Check(share=0.1)])
    totals = []
    for budget in (1.0, 0.5):
        with net.at(budget):
            report = count_termination(net, images())
            assert report.total == total_macs(net, images()[0]).paper
            assert 0 < report.saved < 1
            totals.append(report.total)
    assert totals[1] < totals[0] / 2
    with net.at(0.5), pytest.raises(ConfigError, match=r"budget 1\.0"):
        measure_inputs(net, images())
    measure_inputs(net, (images(), torch.zeros(5, dtype=torch.long)))


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [count_termination, measure_inputs])
def test_zero_images(net: nn.Module, measure: object) -> None:
    with pytest.raises(DataError, match="zero images"):
        measure(net, images(0))


def test_whole_numbers_for_images(net: nn.Module) -> None:
    with pytest.raises(DataError, match="uint8"):
        count_termination(net, images().to(torch.uint8))


def test_a_network_that_does_not_terminate() -> None:
    with pytest.raises(ConfigError, match="call terminate"):
        count_termination(zoo.create("c10net", input_shape=SHAPE), images())


def test_an_unknown_layer(net: nn.Module) -> None:
    with pytest.raises(ConfigError, match="valid: conv1, conv2, conv3"):
        by_iteration(net, "conv", images())


def test_an_iteration_outside_the_filter(net: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"1\.\.76"):
        by_iteration(net, "conv1", images(), iterations=[3, 77])
    assert net.conv1.checks == (Check(position=7),)


def test_a_sum_of_exactly_zero_is_positive() -> None:
    """Table 2: negative means below zero, for the full sum as for the partial one."""
    full = torch.tensor([0.0, -1.0, 2.0, 0.0, -1.0, 2.0]).view(1, 1, 1, 6)
    stops = torch.tensor([0, 0, 0, -1, -1, -1], dtype=torch.int8).view(1, 1, 1, 6)
    counted = LayerTermination("conv")
    counted.add(Outcome(full, stops, full, torch.tensor([[5]]), 9))
    assert {name: s.count for name, s in counted.situations.items()} == {
        "true positive": 2, "true negative": 1, "false positive": 1, "false negative": 2
    }  # fmt: skip
