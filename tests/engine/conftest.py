import pytest
import torch
from torch import nn

import tapernet as tn
from tapernet.nn.terminating import terminating_layers


@pytest.fixture
def net() -> nn.Module:
    """A network that stops early; some files have another of this name."""
    torch.manual_seed(4)
    net = tn.terminate(tn.zoo.create("c10net", input_shape=(3, 16, 16)), torch.rand(2, 3, 16, 16)).eval()
    for layer in terminating_layers(net).values():
        layer.set_checks([tn.Check(share=0.1)])
    return net
