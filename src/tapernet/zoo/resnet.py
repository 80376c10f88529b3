"""The residual networks for CIFAR of He et al. 2016, "Deep residual learning for image recognition", section 4.2."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.zoo import NETWORKS
from tapernet.zoo.width import scaled

STAGES = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to their input, which a 1x1 convolution fits where the shape changes.

    The source pads with zero channels there; a projection has channels that can be cut with the sum's.

    Shapes: (n, channels, H, W) to (n, out, H / stride, W / stride).
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """The sum, after ReLU."""
        out = self.relu(self.bn1(self.conv1(x)))
        y: Tensor = self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))
        return y


@NETWORKS.register("resnet")
def resnet(
    input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, depth: int = 20, width: float = 1.0
) -> nn.Sequential:
    """A 3x3 convolution, three stages of residual blocks, global average pooling and a linear layer.

    Modules conv1, bn1, relu, stage1 to stage3 (each a sequence of blocks), pool, flatten, fc.

    Args:
        input_shape: of one input.
        classes: outputs.
        depth: layers with weights, 6 n + 2: 20, 32, 44, 56 and 110 are the source's.
        width: share of the channel counts 16, 32, 64.

    Raises:
        ConfigError: another depth, a width of 0 or less.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ConfigError(f"the depth of a CIFAR ResNet is 6 n + 2 (8, 14, 20, 32, ...), not {depth!r}")
    channels = scaled(STAGES[0], width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
    )
    for stage, size in enumerate(STAGES, start=1):
        out, first = scaled(size, width), 1 if stage == 1 else 2
        shapes = [(channels, first), *[(out, 1)] * (blocks - 1)]
        layers[f"stage{stage}"] = nn.Sequential(*(BasicBlock(c, out, stride) for c, stride in shapes))
        channels = out
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    return nn.Sequential(layers)
