"""C10-Net, the CIFAR-10 example model of Caffe, as in the early-termination paper (section 5.1)."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from tapernet.errors import ConfigError
from tapernet.zoo import NETWORKS


@NETWORKS.register("c10net")
def c10net(
    input_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    hidden: int | None = None,
    dropout: float = 0.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Three 5x5 convolutions and two fully connected layers; modules conv1, pool1, relu1, ..., fc1, fc2.

    The first pooling (max) comes before its ReLU, the other two (average) after theirs, and no ReLU stands between the
    fully connected layers, as in Caffe's model. With bias counted it does 12,399,306 MACs for an image of CIFAR-10 and
    13,053,156 for one of CIFAR-100, the paper's figures.

    Args:
        input_shape: of one input, (channels, height, width); at least 8 pixels a side.
        classes: outputs.
        hidden: units of fc1; None takes 64 for up to ten classes and 640 for more, as the paper's MACs require.
        dropout: share of features that training drops before fc1.
        batch_norm: a batch-norm after every convolution, to train faster; `tapernet.terminate` folds it away.

    Raises:
        ConfigError: an image that the three poolings would shrink to nothing.
    """
    channels, *sides = input_shape
    height, width = (_pooled(_pooled(_pooled(side))) for side in sides)
    if min(height, width) < 1:
        raise ConfigError(f"c10net needs images of at least 8 x 8 pixels, not {sides[0]} x {sides[1]}")
    if hidden is None:
        hidden = 64 if classes <= 10 else 640
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after) in enumerate([(channels, 32), (32, 32), (32, 64)], start=1):
        layers[f"conv{i}"] = nn.Conv2d(before, after, 5, padding=2)
        if batch_norm:
            layers[f"bn{i}"] = nn.BatchNorm2d(after)
        if i == 1:
            layers["pool1"] = nn.MaxPool2d(3, 2, ceil_mode=True)
            layers["relu1"] = nn.ReLU()
        else:
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.AvgPool2d(3, 2, ceil_mode=True)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(dropout)
    layers["fc1"] = nn.Linear(64 * height * width, hidden)
    layers["fc2"] = nn.Linear(hidden, classes)
    return nn.Sequential(layers)


def _pooled(side: int) -> int:
    """Pixels that a 3x3 pooling of stride 2, rounding up, leaves of `side`."""
    return -(-(side - 3) // 2) + 1
