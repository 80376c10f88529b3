"""VGG-16 (Simonyan and Zisserman 2015) for small images, as the TESLA paper uses it."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from tapernet.errors import ConfigError
from tapernet.registry import unknown
from tapernet.zoo import NETWORKS
from tapernet.zoo.width import scaled

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
POOLINGS: dict[str, Callable[..., nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


@NETWORKS.register("vgg16")
def vgg16(
    input_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    *,
    batch_norm: bool = False,
    width: float = 1.0,
    pooling: str = "max",
    hidden: int = 512,
) -> nn.Sequential:
    """Thirteen 3x3 convolutions in five stages, each stage halved by pooling, then two fully connected layers.

    Modules conv1, [bn1,] relu1, ..., pool1 to pool5, pool (the global average: at 32 x 32 there is one position left),
    flatten, fc1, relu14, fc2. Images of other sizes run, too; 16 x 16 has one position left after four stages.

    Args:
        input_shape: of one input.
        classes: outputs.
        batch_norm: whether each convolution is followed by batch-norm.
        width: share of the standard channel counts.
        pooling: "max" or "average".
        hidden: width of the first fully connected layer at width 1; 0 leaves it out, so that one linear layer follows
            the global average, as class activation maps need it.

    Raises:
        ConfigError: an unknown pooling, a width of 0 or less.
    """
    if pooling not in POOLINGS:
        raise ConfigError(unknown("pooling", pooling, POOLINGS))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, number = input_shape[0], 0
    for stage, sizes in enumerate(STAGES, start=1):
        for size in sizes:
            number += 1
            out = scaled(size, width)
            # Batch-norm has a bias of its own.
            layers[f"conv{number}"] = nn.Conv2d(channels, out, 3, padding=1, bias=not batch_norm)
            if batch_norm:
                layers[f"bn{number}"] = nn.BatchNorm2d(out)
            layers[f"relu{number}"] = nn.ReLU()
            channels = out
        # Rounded up, so that an image of 16 x 16 survives five stages; at 32 x 32 nothing is to round.
        layers[f"pool{stage}"] = POOLINGS[pooling](2, ceil_mode=True)
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    if hidden:
        layers["fc1"] = nn.Linear(channels, scaled(hidden, width))
        layers["relu14"] = nn.ReLU()
        channels = scaled(hidden, width)
    layers["fc2" if hidden else "fc1"] = nn.Linear(channels, classes)
    _initialise(layers.values())
    return nn.Sequential(layers)


def _initialise(layers: Iterable[nn.Module]) -> None:
    """He et al. 2015: torch's default lets the signal of sixteen layers without batch-norm fade."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
