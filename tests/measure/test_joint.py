"""Both knobs in one table, against the network run by hand at each setting."""

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tapernet import Check, ImageData, count_termination, taper, terminate, total_macs, zoo
from tapernet.errors import ConfigError
from tapernet.measure.joint import evaluate_joint, joint_table
from tapernet.measure.layers import layer_table, positions, situation_table
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import checks_set, terminating_layers

SHAPE = (3, 12, 12)
DATA = ImageData(
    torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 10, tuple("abcdefghij")
)


def model() -> nn.Module:
    torch.manual_seed(0)
    return zoo.create("c10net", input_shape=SHAPE)


def with_checks(net: nn.Module) -> nn.Module:
    stopping = terminate(net, DATA.as_float()[:1])
    for layer, share in zip(terminating_layers(stopping).values(), (0.3, 0.1, 0.05), strict=True):
        layer.set_checks([Check(share=share)])
    return stopping


def test_each_budget_with_checks_and_without() -> None:
    dial = taper(model(), DATA.as_float()[:1])
    stopping = with_checks(dial)
    assert isinstance(stopping, TaperedNet)
    table = evaluate_joint(stopping, DATA, (1.0, 0.5, 0.2), name="both")
    assert [p.budget for p in table.points] == [0.2, 0.5, 1.0]
    whole = total_macs(model(), DATA.as_float()[0]).paper
    for point in table.points:
        with dial.at(point.budget), stopping.at(point.budget):
            assert point.unchecked_macs == total_macs(dial, DATA.as_float()[0]).paper
            assert point.macs == count_termination(stopping, DATA).done < point.unchecked_macs
            right = [net(DATA.as_float()).argmax(1) == DATA.labels for net in (stopping, dial)]
        assert point.accuracy == pytest.approx(right[0].float().mean().item())
        assert point.unchecked_accuracy == pytest.approx(right[1].float().mean().item())
        assert point.saved == pytest.approx(1 - point.macs / whole)
    assert stopping.budget == 1.0
    assert all(layer.checks for layer in terminating_layers(stopping).values())


def test_a_count_that_is_there_is_not_made_again() -> None:
    stopping = with_checks(model())
    report = count_termination(stopping, DATA.take(range(5)))
    (point,) = evaluate_joint(stopping, DATA, counted={1.0: report}).points
    assert point.macs == report.done != count_termination(stopping, DATA).done


def test_a_network_without_a_dial_has_one_row() -> None:
    (point,) = evaluate_joint(with_checks(model()), DATA).points
    assert point.budget == 1.0
    assert point.unchecked_macs == total_macs(model(), DATA.as_float()[0]).paper


def test_checks_come_back_after_an_error() -> None:
    stopping = with_checks(model())
    before = {path: layer.checks for path, layer in terminating_layers(stopping).items()}
    with checks_set(stopping, {}):
        assert not any(layer.checks for layer in terminating_layers(stopping).values())
    assert {path: layer.checks for path, layer in terminating_layers(stopping).items()} == before
    with pytest.raises(RuntimeError), checks_set(stopping, {}):
        stopping(torch.zeros(1, 5))
    assert {path: layer.checks for path, layer in terminating_layers(stopping).items()} == before


def test_it_is_written_and_shown(tmp_path: Path) -> None:
    table = evaluate_joint(with_checks(taper(model(), DATA.as_float()[:1])), DATA, (1.0, 0.5))
    table.save(tmp_path / "t.json")
    table.save(tmp_path / "t.csv")
    table.save(tmp_path / "t.png")
    assert [p["macs"] for p in json.loads((tmp_path / "t.json").read_text())["points"]] == [
        p.macs for p in table.points
    ]
    with (tmp_path / "t.csv").open() as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [p.accuracy for p in table.points]
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert joint_table([table, table]).row_count == 4


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="no dial"):
        evaluate_joint(with_checks(model()), DATA, (0.5,))
    with pytest.raises(ConfigError, match="call terminate"):
        evaluate_joint(model(), DATA)


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ([], "none"),
        ([Check(share=0.05)], "40 / 801"),
        ([Check(position=10), Check(share=0.32)], "10, 256 / 801"),
        ([Check(position=[801] * 30 + [40, 256])], "40-256 / 801"),
        ([Check(position=801)], "801 / 801"),
    ],
    ids=str,
)
def test_where_a_layer_looks_in_words(checks: list[Check], words: str) -> None:
    layer = terminating_layers(terminate(model(), DATA.as_float()[:1]))["conv2"]
    layer.set_checks(checks)
    assert positions(layer, layer.terms) == words


def test_every_layer_has_a_row() -> None:
    stopping = with_checks(model())
    table = layer_table(stopping, count_termination(stopping, DATA))
    assert list(table.columns[0].cells) == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert list(table.columns[1].cells)[:3] == ["22 / 76", "80 / 801", "40 / 801"]


def test_every_situation_has_a_row_with_its_macs() -> None:
    report = count_termination(with_checks(model()), DATA)
    table = situation_table(report)
    rows = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert [row[:2] for row in rows[:4]] == [("conv1", name) for name in report.layers[0].situations]
    negative = report.layers[0].situations["true negative"]
    assert rows[1][3:5] == ("23.0", f"{negative.macs / len(DATA):,.0f}")  # 22 products and the check
