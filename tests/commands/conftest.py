"""A saved network for the subcommands."""

from pathlib import Path

import pytest
import torch

from tapernet import InputSpec, calibrate, load_data, save, taper, zoo
from tapernet.budget import TEN_BUDGETS


@pytest.fixture(scope="session")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ResNet-8 for digits, with statistics at ten budgets."""
    train = load_data("digits").train
    torch.manual_seed(0)
    model = zoo.create("resnet", input_shape=train.shape, classes=train.classes, depth=8)
    net = taper(model, train.as_float()[:1])
    calibrate(net, [train.as_float()[:200]], TEN_BUDGETS)
    path = tmp_path_factory.mktemp("nets") / "resnet.safetensors"
    save(net, path, InputSpec(train.mean, train.std, train.class_names, "digits"))
    return path
