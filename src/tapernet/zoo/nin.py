"""Network in Network (Lin et al. 2013) in the size of the early-termination paper (section 5.2)."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from tapernet.errors import ConfigError
from tapernet.zoo import NETWORKS

BLOCKS = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192)))
"""Kernel of each block's first convolution, and the filters of its convolutions; the last gets the classes as well."""


@NETWORKS.register("nin")
def nin(
    input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, dropout: float = 0.5, batch_norm: bool = False
) -> nn.Sequential:
    """Nine convolutions, each with ReLU, then a global average; modules conv1, relu1, ..., conv9, relu9, average.

    A max pooling follows the third convolution, an average pooling the sixth. With bias counted it does 223,117,952
    MACs for an image of CIFAR-10 and 224,229,632 for one of CIFAR-100, the paper's figures.

    Args:
        input_shape: of one input, (channels, height, width); at least 4 pixels a side.
        classes: outputs.
        dropout: share of features that training drops after each of the two poolings.
        batch_norm: a batch-norm after every convolution, to train faster; `tapernet.terminate` folds it away.

    Raises:
        ConfigError: an image that the poolings would shrink to nothing.
    """
    before, *sides = input_shape
    if min(sides) < 4:
        raise ConfigError(f"nin needs images of at least 4 x 4 pixels, not {sides[0]} x {sides[1]}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    i = 0
    for block, (first_kernel, widths) in enumerate(BLOCKS, start=1):
        last = block == len(BLOCKS)
        for j, after in enumerate((*widths, classes) if last else widths):
            i += 1
            kernel = first_kernel if j == 0 else 1
            layers[f"conv{i}"] = nn.Conv2d(before, after, kernel, padding=kernel // 2)
            if batch_norm:
                layers[f"bn{i}"] = nn.BatchNorm2d(after)
            layers[f"relu{i}"] = nn.ReLU()
            before = after
        if not last:
            pool = nn.MaxPool2d if block == 1 else nn.AvgPool2d
            layers[f"pool{block}"] = pool(3, 2, ceil_mode=True)
            layers[f"dropout{block}"] = nn.Dropout(dropout)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)
