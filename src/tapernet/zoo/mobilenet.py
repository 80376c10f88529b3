"""MobileNetV2 (Sandler et al. 2018, Table 2) for images of 32 x 32."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from tapernet.zoo import NETWORKS
from tapernet.zoo.width import scaled

STEM, HEAD = 32, 1280
STAGES = (
    # Expansion, channels, blocks, stride of the first block. The stem and the second stage keep the image's size, which
    # is 224 x 224 in the source and would end at one position here.
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depthwise 3x3 and a linear 1x1 projection, added to the input if the shape stays.

    Shapes: (n, channels, H, W) to (n, out, H / stride, W / stride).
    """

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = _unit(channels, hidden, 1) if expansion > 1 else nn.Identity()
        depthwise = _unit(hidden, hidden, 3, stride, groups=hidden)
        project = OrderedDict(conv=nn.Conv2d(hidden, out, 1, bias=False), bn=nn.BatchNorm2d(out))
        self.expand, self.depthwise, self.project = expand, depthwise, nn.Sequential(project)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """The projection, added to the input if the shape stays."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


@NETWORKS.register("mobilenetv2")
def mobilenetv2(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, width: float = 1.0) -> nn.Sequential:
    """A 3x3 convolution, seventeen inverted residual blocks, a 1x1 convolution, global average and a linear layer.

    Modules stem, stage1 to stage7, head, pool, flatten, fc.

    Args:
        input_shape: of one input.
        classes: outputs.
        width: share of the channel counts, which are rounded to multiples of 8.

    Raises:
        ConfigError: a width of 0 or less.
    """
    channels = scaled(STEM, width, 8)
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=_unit(input_shape[0], channels, 3))
    for stage, (expansion, size, blocks, stride) in enumerate(STAGES, start=1):
        out = scaled(size, width, 8)
        shapes = [(channels, stride), *[(out, 1)] * (blocks - 1)]
        layers[f"stage{stage}"] = nn.Sequential(*(InvertedResidual(c, out, s, expansion) for c, s in shapes))
        channels = out
    # The source keeps the head at full width for widths below 1.
    head = scaled(HEAD, max(1.0, width), 8)
    layers |= OrderedDict(head=_unit(channels, head, 1), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    layers["fc"] = nn.Linear(head, classes)
    return nn.Sequential(layers)


def _unit(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch-norm and ReLU6."""
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out), relu=nn.ReLU6()))
