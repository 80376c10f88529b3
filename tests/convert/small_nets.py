"""One small network for each structure that `taper` follows, with what a reference needs to know about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.budget import kept_count

CLASSES = 5


@dataclass(frozen=True)
class SmallNet:
    """A network with two free widths, a and b.

    Args:
        make: builds it for widths a and b.
        reads: for each layer that mixes channels, the widths that make up its input: "", "a", "b" or "ab".
        scattered: parameters that run over a and b, one after the other, and the dimension in which they do.
        unit: kept counts of a are multiples of this.
        shape: of one input.
        any_size: whether inputs may be larger.
    """

    make: Callable[[int, int], nn.Module]
    reads: Mapping[str, str]
    scattered: Mapping[str, int] = field(default_factory=dict)
    unit: int = 1
    shape: tuple[int, ...] = (3, 6, 6)
    any_size: bool = True

    def kept(self, a: int, b: int, percent: int) -> tuple[int, int]:
        return kept_count(a, percent, self.unit), kept_count(b, percent)

    def cut(self, full: nn.Module, a: int, b: int, percent: int) -> nn.Module:
        """The same architecture at the kept widths, its tensors the leading parts of the full one's."""
        ka, kb = self.kept(a, b, percent)
        small, tensors = self.make(ka, kb), full.state_dict()
        for name, target in small.state_dict().items():
            source = tensors[name]
            if name in self.scattered:
                dim = self.scattered[name]
                kept = torch.tensor([i < ka or a <= i < a + kb for i in range(a + b)])
                source = source.index_select(dim, kept.repeat_interleave(source.shape[dim] // (a + b)).nonzero()[:, 0])
            target.copy_(source[tuple(slice(n) for n in target.shape)])
        return small

    def weigh(self, small: nn.Module, gammas: dict[str, Tensor]) -> None:
        """Makes every mixing layer multiply its input by the profile, as the definition has it."""
        for name, letters in self.reads.items():
            if letters:
                gamma = torch.cat([gammas[letter] for letter in letters])
                small.get_submodule(name).register_forward_pre_hook(_multiply(gamma))


def _multiply(gamma: Tensor) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
    def hook(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        x = inputs[0]
        dim = x.ndim - 1 if isinstance(layer, nn.Linear) else 1
        each = gamma.repeat_interleave(x.shape[dim] // len(gamma))
        return x * each.view(-1, *[1] * (x.ndim - 1 - dim))

    return hook


def chain(*middle: Callable[[int], nn.Module]) -> Callable[[int, int], nn.Module]:
    """conv1 with a outputs, what is given for a channels, conv2 with b outputs, pooling, fc."""

    def make(a: int, b: int) -> nn.Module:
        layers = [nn.Conv2d(3, a, 3, padding=1), *(m(a) for m in middle), nn.ReLU(), nn.Conv2d(a, b, 3)]
        return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(b, CLASSES))

    return make


def chain_reads(middle: int = 1) -> dict[str, str]:
    return {"0": "", str(middle + 2): "a", str(middle + 6): "b"}


class Base(nn.Module):
    """A first convolution with a outputs, and a head that reads `features`."""

    def __init__(self, a: int, features: int) -> None:
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, a, 3, padding=1), nn.Linear(features, CLASSES)

    def head(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class Residual(Base):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, a)
        self.conv2, self.conv3 = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, a, 3, padding=1)
        self.bn = nn.BatchNorm2d(a)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        return self.head(F.relu(x + self.bn(self.conv3(F.relu(self.conv2(x))))))


class GroupedResidual(Base):
    """A sum of channels that are free with ones that a grouped convolution ties together."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, a)
        self.conv2, self.grouped = nn.Conv2d(a, a, 1), nn.Conv2d(a, a, 3, padding=1, groups=a // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(x.sub(self.grouped(self.conv2(x))))


class Concatenation(Base):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)
        self.conv2, self.conv3 = nn.Conv2d(a, b, 1), nn.Conv2d(a + b, b, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(self.conv3(torch.cat([x, self.conv2(x)], dim=1).relu()))


class Dense(Base):
    """Batch-norm, PReLU and flattening over a concatenation."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, (a + b) * 4)
        self.conv2, self.bn, self.act = nn.Conv2d(a, b, 1), nn.BatchNorm2d(a + b), nn.PReLU(a + b)
        self.pool = nn.AdaptiveMaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.act(self.bn(torch.cat((x, self.conv2(x)), 1)))
        return self.fc(torch.flatten(self.pool(x), 1))


class Functional(Base):
    """Flattening by view, arithmetic with numbers, padding, a slice of the image, softmax over classes."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b * 9)
        self.conv2 = nn.Conv2d(a, b, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(F.max_pool2d(F.leaky_relu(self.conv1(x) * 0.5 + 1), 2), (1, 1, 1, 1))
        x = F.dropout(self.conv2(x)[:, :, :, :3], training=self.training)
        return F.log_softmax(self.fc(x.view(x.size(0), -1)), dim=1)


class Indexing(Base):
    """Concatenation along the height, and indices that drop and add dimensions before the channels."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, a)
        self.conv2 = nn.Conv2d(3, a, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.conv1(x), self.conv2(x)], dim=-2).permute(0, 2, 3, 1)
        return self.fc(x[:, 0, None, None, :2, ...].mean((1, 2, 3)))


class SqueezeExcite(Base):
    """Gates from two linear layers, brought to the image by view."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, a)
        self.fc1, self.fc2 = nn.Linear(a, b), nn.Linear(b, a)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        n, c, _, _ = x.size()
        gate = F.adaptive_avg_pool2d(x, 1).view(n, c)
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(gate)))).view(n, c, 1, 1)
        return self.head(x * gate.expand_as(x))


class SpatialGate(Base):
    """A map of one channel, multiplied into all, and gates by indexing with None."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, a)
        self.conv2, self.fc1 = nn.Conv2d(a, 1, 3, padding=1), nn.Linear(a, a)
        self.scale = nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x * self.conv2(x).sigmoid() * self.scale
        return self.head(x / (1 + self.fc1(x.amax(dim=[-2, -1])).abs()[..., None, None]))


class Shared(Base):
    """One convolution, batch-norm and activation, used twice."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, a)
        self.conv2, self.bn, self.relu = nn.Conv2d(a, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU()
        self.again = nn.Sequential(self.conv2, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv2(self.relu(self.conv1(x)))))
        return self.head(self.relu(self.again(x)))


class ConvNeXt(Base):
    """Depthwise convolution, then layer norm and linear layers over channels in the last dimension."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, a)
        self.depthwise, self.norm = nn.Conv2d(a, a, 3, padding=1, groups=a), nn.LayerNorm(a)
        self.fc1, self.fc2 = nn.Linear(a, b), nn.Linear(b, a)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.fc2(F.gelu(self.fc1(y))).permute(0, 3, 1, 2)
        return self.head(x + y)


class OneDimension(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv1d(2, a, 3), nn.BatchNorm1d(a), nn.Conv1d(a, b, 3, groups=1)
        self.fc1, self.norm, self.fc = nn.Linear(b, a), nn.BatchNorm1d(a), nn.Linear(a, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.bn(self.conv1(x)))
        return self.fc(self.norm(self.fc1(x.transpose(1, 2).mean(1))))


class ThreeDimensions(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv3d(2, a, 3), nn.InstanceNorm3d(a, affine=True), nn.Conv3d(a, b, 2)
        self.fc = nn.Linear(b, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.norm(self.conv1(x)))
        return self.fc(x.mean((2, 3, 4)))


class Decoder(nn.Module):
    """Transposed convolutions, one of them depthwise; the output is an image."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv1, self.up = nn.Conv2d(3, a, 3, 2, 1), nn.ConvTranspose2d(a, b, 4, 2, 1)
        self.each, self.out = nn.ConvTranspose2d(b, b, 3, 1, 1, groups=b), nn.Conv2d(b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.each(self.up(self.conv1(x).relu()).relu())).flatten(1)


NETS = {
    "chain": SmallNet(chain(lambda a: nn.Identity()), chain_reads()),
    "batch norm": SmallNet(chain(nn.BatchNorm2d), chain_reads()),
    "group norm": SmallNet(chain(lambda a: nn.GroupNorm(a // 2, a)), chain_reads(), unit=2),
    "group norm of one group": SmallNet(chain(lambda a: nn.GroupNorm(1, a)), chain_reads()),
    "layer norm": SmallNet(chain(lambda a: nn.LayerNorm((a, 6, 6))), chain_reads(), any_size=False),
    "layer norm of positions": SmallNet(chain(lambda a: nn.LayerNorm((6, 6))), chain_reads(), any_size=False),
    "instance norm": SmallNet(chain(lambda a: nn.InstanceNorm2d(a, affine=True)), chain_reads()),
    "plain instance norm": SmallNet(chain(nn.InstanceNorm2d), chain_reads()),
    "prelu": SmallNet(chain(nn.PReLU), chain_reads()),
    "prelu of one slope": SmallNet(chain(lambda a: nn.PReLU()), chain_reads()),
    "depthwise": SmallNet(chain(lambda a: nn.Conv2d(a, a, 3, groups=a, padding=1)), chain_reads()),
    "depthwise with padding mode": SmallNet(
        chain(lambda a: nn.Conv2d(a, a, 3, groups=a, padding=1, padding_mode="circular", bias=False)), chain_reads()
    ),
    "grouped": SmallNet(chain(lambda a: nn.Conv2d(a, a, 3, groups=a // 2, padding=1)), chain_reads(), unit=2),
    "grouped, normed": SmallNet(
        chain(lambda a: nn.Conv2d(a, a, 3, groups=a // 2, padding=1), nn.BatchNorm2d), chain_reads(2), unit=2
    ),
    "upsampling": SmallNet(chain(lambda a: nn.Upsample(scale_factor=2)), chain_reads()),
    "residual": SmallNet(Residual, {"conv1": "", "conv2": "a", "conv3": "b", "fc": "a"}),
    "grouped residual": SmallNet(GroupedResidual, {"conv2": "a", "fc": "a"}, unit=2),
    "concatenation": SmallNet(Concatenation, {"conv2": "a", "conv3": "ab", "fc": "b"}, {"conv3.weight": 1}),
    "dense": SmallNet(
        Dense,
        {"conv2": "a", "fc": "ab"},
        dict.fromkeys(["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "act.weight"], 0)
        | {"fc.weight": 1},
    ),
    "functional": SmallNet(Functional, {"conv2": "a", "fc": "b"}, any_size=False),
    "indexing": SmallNet(Indexing, {"fc": "a"}),
    "squeeze-excite": SmallNet(SqueezeExcite, {"fc1": "a", "fc2": "b", "fc": "a"}),
    "spatial gate": SmallNet(SpatialGate, {"conv2": "a", "fc1": "a", "fc": "a"}),
    "shared": SmallNet(Shared, {"conv2": "a", "fc": "a"}),
    "convnext": SmallNet(ConvNeXt, {"fc1": "a", "fc2": "b", "fc": "a"}),
    "one dimension": SmallNet(OneDimension, {"conv2": "a", "fc1": "b", "fc": "a"}, shape=(2, 9)),
    "three dimensions": SmallNet(ThreeDimensions, {"conv2": "a", "fc": "b"}, shape=(2, 5, 5, 5)),
    "decoder": SmallNet(Decoder, {"up": "a", "out": "b"}),
}
