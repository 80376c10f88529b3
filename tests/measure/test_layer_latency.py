import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tapernet import taper, zoo
from tapernet.errors import ConfigError, FileError
from tapernet.measure.layer_latency import LatencyTable, Sample, measure_layers


class Slow(nn.Module):
    """Takes its time after a convolution, and counts it to nobody else."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.004)
        return x


def test_time_is_counted_to_the_layer_before() -> None:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), Slow(), *pool, nn.Linear(8, 3))
    table = measure_layers(taper(model, torch.zeros(1, 1, 8, 8), keep=["3"]), widths=5, rounds=3)
    assert list(table.layers) == ["0", "2", "6"]
    for samples in (table.layers["0"], table.layers["6"]):
        assert all(s.milliseconds < 4 for s in samples)
    assert all(4 <= s.milliseconds < 40 for s in table.layers["2"])


def test_widths_are_those_of_the_sub_networks() -> None:
    net = taper(zoo.create("resnet", depth=8, input_shape=(3, 8, 8)), torch.zeros(1, 3, 8, 8)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    table = measure_layers(net, widths=7, rounds=2)
    even = [(s.inputs, s.outputs) for s in table.layers["stage2.0.conv1"][:5]]
    assert even == [(2, 3), (4, 8), (8, 16), (12, 24), (16, 32)]
    assert all(len(samples) == 7 for samples in table.layers.values())
    # Afterwards the network is what it was.
    assert net.training
    assert net.budget == 1.0
    assert net.state_dict().keys() == before.keys()
    assert not any(m._forward_pre_hooks for m in net.modules())
    again = measure_layers(net, widths=7, rounds=2)
    for path, samples in table.layers.items():
        assert [(s.inputs, s.outputs) for s in samples] == [(s.inputs, s.outputs) for s in again.layers[path]]


def test_a_table_is_saved_and_read(tmp_path: Path) -> None:
    table = LatencyTable({"fc1": (Sample(3, 4, 0.25), Sample(3, 8, 0.5))})
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table


@pytest.mark.parametrize("value", [{"layer": {}}, {"layers": []}, {"layers": {"fc1": [{"inputs": 3}]}}])
def test_a_file_that_is_no_table_is_refused(value: object, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(FileError, match="does not hold a table of latencies"):
        LatencyTable.load(tmp_path / "a.json")


def test_too_few_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 5 widths"):
        measure_layers(taper(zoo.create("mlp"), torch.zeros(1, 1, 28, 28)), widths=4)
