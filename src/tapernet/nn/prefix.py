"""Layers that read and write a prefix of their channels, and do only that prefix's work.

Each is the torch layer it replaces, with the same parameters under the same names. What it multiplies are views of
the full weights, so forward and backward cost what a layer of the smaller size costs.
"""

from typing import Self, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.nn.group import Layout

Index = tuple[slice, ...]
M = TypeVar("M", bound="PrefixModule")


class PrefixModule(nn.Module):
    """A module whose parameters are cut by the budget."""

    inputs: Layout
    outputs: Layout

    def prefix(self) -> dict[str, Index]:
        """For each parameter that the budget cuts, the slices that it leaves."""
        raise NotImplementedError

    def _weight_and_bias(self) -> dict[str, Index]:
        rows, columns = _slice(self.outputs), _slice(self.inputs)
        return {"weight": (rows, columns), "bias": (rows,)} if self.bias is not None else {"weight": (rows, columns)}


class PrefixLinear(PrefixModule, nn.Linear):
    """y_j = sum over the kept i of gamma_i w_ji x_i + b_j, for the kept j (TESLA paper, Eq. 1).

    Shapes: (batch, kept inputs) to (batch, kept outputs).
    """

    @classmethod
    def of(cls, linear: nn.Linear, inputs: Layout, outputs: Layout) -> Self:
        """The prefix layer that shares `linear`'s parameters."""
        return _adopt(cls, linear, inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the kept outputs from the kept inputs."""
        gamma = self.inputs.profile()
        if gamma is not None:
            x = x * gamma
        weight = self.inputs.select(self.outputs.select(self.weight, 0), 1)
        return F.linear(x, weight, None if self.bias is None else self.outputs.select(self.bias, 0))

    def prefix(self) -> dict[str, Index]:
        """Rows are outputs, columns inputs."""
        return self._weight_and_bias()


class PrefixConv2d(PrefixModule, nn.Conv2d):
    """The kept filters, each over the kept input channels weighed by their profile (TESLA paper, Eq. 2).

    The paper scales a filter's output, bias included, before the ReLU; scaling the channel where the next layer reads
    it is the same thing for ReLU chains, and the only thing that a batch-norm between them does not undo.

    Shapes: (batch, kept inputs, H, W) to (batch, kept outputs, H', W').
    """

    @classmethod
    def of(cls, conv: nn.Conv2d, inputs: Layout, outputs: Layout) -> Self:
        """The prefix layer that shares `conv`'s parameters."""
        return _adopt(cls, conv, inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the kept filters over the kept channels."""
        weight = self.inputs.select(self.outputs.select(self.weight, 0), 1)
        gamma = self.inputs.profile()
        if gamma is not None:
            # The weights are fewer than the activations in all but the smallest images.
            weight = weight * gamma[:, None, None]
        return self._conv_forward(x, weight, None if self.bias is None else self.outputs.select(self.bias, 0))

    def prefix(self) -> dict[str, Index]:
        """Filters, then input channels."""
        return self._weight_and_bias()


def _adopt(cls: type[M], layer: nn.Module, inputs: Layout, outputs: Layout) -> M:
    """A `cls` with the attributes and parameters of `layer`."""
    prefix = cls.__new__(cls)
    prefix.__dict__.update(layer.__dict__)
    prefix.inputs, prefix.outputs = inputs, outputs
    return prefix


def _slice(layout: Layout) -> slice:
    """What a layout leaves of a dimension: a prefix, or all of it where the kept features are scattered."""
    return slice(layout.kept if layout.is_prefix else None)
