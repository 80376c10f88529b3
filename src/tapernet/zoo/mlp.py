"""The multilayer perceptron of the TESLA paper (Figure 2a)."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn

from tapernet.zoo import NETWORKS


@NETWORKS.register("mlp")
def mlp(
    input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, hidden: Sequence[int] = (100, 100)
) -> nn.Sequential:
    """Fully connected layers with ReLU between; modules fc1, relu1, fc2, ...

    Args:
        input_shape: of one input; flattened.
        classes: outputs.
        hidden: width of each hidden layer.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    widths = [prod(input_shape), *hidden]
    for i in range(len(hidden)):
        layers[f"fc{i + 1}"] = nn.Linear(widths[i], widths[i + 1])
        layers[f"relu{i + 1}"] = nn.ReLU()
    layers[f"fc{len(widths)}"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(layers)
