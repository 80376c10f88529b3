"""Layers that read and write a prefix of their channels, and do only that prefix's work.

Each is the torch layer it replaces, with the same parameters under the same names. What it multiplies are views of
the full weights, so forward and backward cost what a layer of the smaller size costs. This file holds the base and the
layers that multiply; those that normalise are in `tapernet.nn.norm`.
"""

import copy
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.nn.group import Layout

Index = tuple[slice | Tensor, ...]
Axes = tuple[Layout | None, ...]


class PrefixModule(nn.Module):
    """A module whose parameters are cut by the budget.

    A subclass names the torch layer that it replaces as `plain`, and says in `axes` what its parameters run over and in
    `sizes` how wide the plain layer of the moment is.
    """

    plain: ClassVar[type[nn.Module]]
    inputs: Layout
    outputs: Layout

    @classmethod
    def of(cls, layer: nn.Module, inputs: Layout, outputs: Layout) -> Self:
        """The prefix layer that takes over `layer`'s parameters and attributes."""
        prefix = cls.__new__(cls)
        prefix.__dict__.update(layer.__dict__)
        prefix.inputs, prefix.outputs = inputs, outputs
        return prefix

    def axes(self) -> dict[str, Axes]:
        """For each parameter that the budget cuts, the features that its leading dimensions run over (None: uncut)."""
        raise NotImplementedError

    def sizes(self) -> dict[str, Any]:
        """The attributes of the plain layer that depend on the budget, as they are now."""
        raise NotImplementedError

    def prefix(self) -> dict[str, Index]:
        """For each parameter that the budget cuts, the index that leaves what is kept."""
        return {
            name: tuple(slice(None) if axis is None else axis.index() for axis in axes)
            for name, axes in self.axes().items()
            if getattr(self, name) is not None
        }

    def part(self, name: str) -> Tensor | None:
        """The kept part of a parameter; None if the layer has no such parameter."""
        tensor: Tensor | None = getattr(self, name)
        if tensor is not None:
            for dim, axis in enumerate(self.axes()[name]):
                if axis is not None:
                    tensor = axis.select(tensor, dim)
        return tensor

    def weighed(self) -> Tensor:
        """The kept weight with the profile of the kept inputs multiplied in, which only layers that mix channels do."""
        weight = self.part("weight")
        assert weight is not None
        return weight

    def extracted(self) -> nn.Module:
        """The torch layer of the size of the moment, with parameters of its own and the profile folded in."""
        layer = self.plain.__new__(self.plain)
        skip = {"inputs", "outputs", "_parameters"}
        layer.__dict__.update({k: copy.deepcopy(v) for k, v in self.__dict__.items() if k not in skip})
        layer.__dict__.update(self.sizes())
        layer._parameters = {}
        for name, full in self._parameters.items():
            part = self.weighed() if name == "weight" and full is not None else self.part(name)
            own = None if part is None or full is None else nn.Parameter(part.detach().clone(), full.requires_grad)
            layer.register_parameter(name, own)
        return layer


class PrefixLayer(PrefixModule):
    """A prefix module that mixes channels: each of its outputs is a weighted sum of its inputs."""

    @property
    def channel_dim(self) -> int:
        """The dimension of the output that its channels run along."""
        raise NotImplementedError


class PrefixLinear(PrefixLayer, nn.Linear):
    """y_j = sum over the kept i of gamma_i w_ji x_i + b_j, for the kept j (TESLA paper, Eq. 1).

    Shapes: (..., kept inputs) to (..., kept outputs).
    """

    plain = nn.Linear
    channel_dim = -1

    def forward(self, x: Tensor) -> Tensor:
        """Computes the kept outputs from the kept inputs."""
        gamma = self.inputs.profile()
        if gamma is not None:
            x = x * gamma
        rows, own = self.outputs, self._parameters  # past nn.Module's attribute search: small layers feel it
        weight, bias = own["weight"], own["bias"]
        assert weight is not None
        bias_part = None if bias is None else rows.select(bias, 0)
        return F.linear(x, self.inputs.select(rows.select(weight, 0), 1), bias_part)

    def axes(self) -> dict[str, Axes]:
        """Rows are outputs, columns inputs."""
        return {"weight": (self.outputs, self.inputs), "bias": (self.outputs,)}

    def sizes(self) -> dict[str, Any]:
        """Features in and out."""
        return {"in_features": self.inputs.kept, "out_features": self.outputs.kept}

    def weighed(self) -> Tensor:
        """Each column times its input's coefficient."""
        return _weigh(super().weighed(), self.inputs, 1)


class _PrefixConv(PrefixLayer):
    """The kept filters, each over the kept input channels weighed by their profile (TESLA paper, Eq. 2).

    The paper scales a filter's output, bias included, before the ReLU; scaling the channel where the next layer reads
    it is the same thing for ReLU chains, and the only thing that a batch-norm between them does not undo.

    A grouped (or depthwise) convolution keeps whole groups. It does not mix the channels of different groups, so its
    outputs belong to the same channel group as its inputs, and the profile waits for the layer that mixes them.

    Shapes: (batch, kept inputs, ...) to (batch, kept outputs, ...).
    """

    in_channels: int
    input_dim: ClassVar[int] = 1

    @property
    def groups(self) -> int:
        """Convolution groups at the budget of the moment, where torch's own forward looks for them."""
        groups: int = self.__dict__["groups"]
        return 1 if groups == 1 else self.inputs.kept * groups // self.in_channels

    @property
    def channel_dim(self) -> int:
        """The dimension before those of space."""
        return -1 - len(self.kernel_size)  # type: ignore[arg-type]

    def axes(self) -> dict[str, Axes]:
        """Filters, then input channels; filters alone in a grouped convolution."""
        mixes = self.__dict__["groups"] == 1
        return {"weight": (self.outputs, self.inputs) if mixes else (self.outputs,), "bias": (self.outputs,)}

    def sizes(self) -> dict[str, Any]:
        """Channels in and out, and groups."""
        return {"in_channels": self.inputs.kept, "out_channels": self.outputs.kept, "groups": self.groups}

    def weighed(self) -> Tensor:
        """Each input channel's slice times its coefficient, unless the convolution is grouped."""
        weight = super().weighed()
        # The weights are fewer than the activations in all but the smallest images.
        return _weigh(weight, self.inputs, self.input_dim) if self.__dict__["groups"] == 1 else weight

    def forward(self, x: Tensor) -> Tensor:
        """Computes the kept filters over the kept channels."""
        out: Tensor = self._conv_forward(x, self.weighed(), self.part("bias"))  # type: ignore[operator]
        return out


class PrefixConv1d(_PrefixConv, nn.Conv1d):  # type: ignore[override]
    """`_PrefixConv` over (batch, channels, length)."""

    plain = nn.Conv1d


class PrefixConv2d(_PrefixConv, nn.Conv2d):  # type: ignore[override]
    """`_PrefixConv` over (batch, channels, height, width)."""

    plain = nn.Conv2d


class PrefixConv3d(_PrefixConv, nn.Conv3d):  # type: ignore[override]
    """`_PrefixConv` over (batch, channels, depth, height, width)."""

    plain = nn.Conv3d


class PrefixConvTranspose2d(_PrefixConv, nn.ConvTranspose2d):  # type: ignore[override]
    """`_PrefixConv` transposed: its weight holds input channels first."""

    plain = nn.ConvTranspose2d
    input_dim = 0

    def axes(self) -> dict[str, Axes]:
        """Input channels, then filters; input channels alone in a grouped convolution."""
        mixes = self.__dict__["groups"] == 1
        return {"weight": (self.inputs, self.outputs) if mixes else (self.inputs,), "bias": (self.outputs,)}

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Computes the kept filters over the kept channels; `output_size` is (height, width) as torch has it."""
        padding: Any = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation  # type: ignore[arg-type]
        )  # fmt: skip
        return F.conv_transpose2d(
            x, self.weighed(), self.part("bias"), self.stride, self.padding, padding, self.groups, self.dilation  # type: ignore[arg-type]
        )  # fmt: skip


def _weigh(weight: Tensor, inputs: Layout, dim: int) -> Tensor:
    """`weight` times the profile of its inputs, which run along `dim`."""
    gamma = inputs.profile()
    return weight if gamma is None else weight * gamma.view(-1, *[1] * (weight.dim() - 1 - dim))
