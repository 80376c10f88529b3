"""What experiments do to a trained network before its fine-tuning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tapernet import Check, count_termination, load_data, zoo
from tapernet.errors import ConfigError
from tapernet.experiment import reproduce
from tapernet.experiment.common import Job
from tapernet.experiment.methods import METHODS
from tapernet.files import read_json
from tapernet.nn.terminating import terminating_layers

TRAIN = load_data("digits").train.take(range(200))


def base(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return zoo.create("c10net", input_shape=TRAIN.shape, classes=10, hidden=8, **arguments).eval()


def test_a_folded_control_is_the_network_that_stops_early_without_its_checks() -> None:
    net = base(batch_norm=True)
    assert METHODS["none"](net, 0.0, TRAIN) is net
    folded = METHODS["none"](net, 0.0, TRAIN, folded=True)
    x = TRAIN.as_float()[:10]
    torch.testing.assert_close(folded(x), net(x))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert not any(layer.checks for layer in terminating_layers(folded).values())


@pytest.mark.parametrize("options", [{}, {"bias_first": True}, {"order": "expected", "images": 50}], ids=str)
def test_checks_of_any_order_are_placed(options: dict[str, Any]) -> None:
    net = METHODS["terminate"](base(), 0.9, TRAIN, **options)
    assert count_termination(net, TRAIN).saved > 0.1


def test_one_layer_has_the_check_and_no_other() -> None:
    net = METHODS["check"](base(), 7.0, TRAIN, layer="conv1", bias_first=True)
    checks = {path: layer.checks for path, layer in terminating_layers(net).items()}
    assert checks == {"conv1": (Check(position=7),), "conv2": (), "conv3": ()}
    with pytest.raises(ConfigError, match="unknown terminating layer 'conv9'"):
        METHODS["check"](base(), 7.0, TRAIN, layer="conv9")


TEXT = """
kind: termination
title: A small figure
data: digits
model: {name: c10net, arguments: {hidden: 8}}
validation: 1200
base: {epochs: 1}
tuning: {epochs: 1}
curves:
  - {name: stopped, method: terminate, points: [0.95, 1.0], options: {images: 100}}
"""


def test_a_point_that_starts_from_the_same_network_is_not_trained_again(tmp_path: Path) -> None:
    (tmp_path / "figure.yaml").write_text(TEXT)
    reproduce(tmp_path / "figure.yaml", Job(tmp_path / "figure.json", tmp_path / "runs", say=lambda _: None))
    first, second = read_json(tmp_path / "figure.json")["curves"][0]["points"]
    assert first["saved"] > 0.1
    assert second == {**first, "point": 1.0}
    trained = sorted(path.parent.name for path in (tmp_path / "runs" / "stopped").rglob("net.safetensors"))
    assert trained == ["0.95"]
