"""Prefix layers that treat each channel by itself or normalise over channels.

None of them applies a profile: a normalisation would divide it out again. A normalisation over channels (layer norm,
a group norm of one group) is over the kept ones; a group norm of several groups keeps whole groups.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.nn.group import Layout
from tapernet.nn.prefix import Axes, PrefixModule

_STATISTICS = ("running_mean", "running_var")


class _PerChannel(PrefixModule):
    """A layer with one weight and one bias for each channel."""

    def axes(self) -> dict[str, Axes]:
        """Channels."""
        return {"weight": (self.outputs,), "bias": (self.outputs,)}

    def sizes(self) -> dict[str, Any]:
        """Channels."""
        return {"num_features": self.outputs.kept}


class PrefixBatchNorm(_PerChannel):
    """Batch-norm with running statistics for each budget, because a channel's mean and variance differ between them.

    Statistics are the buffers ``running_mean_<key>`` and ``running_var_<key>``, where the key is the percent of a
    budget, or a digest of a budget per layer. Training normalises with the batch alone; where gradients flow it drops
    every stored statistic with a warning, since the weights that they belong to are about to move, and
    `tapernet.calibrate` measures them. In eval mode a budget without statistics is a ConfigError.

    Attributes:
        trained: budgets that were trained since the last calibration, by key, in words.

    Shapes: (batch, kept channels, ...) to the same.
    """

    eps: float
    track_running_stats: bool
    key: str
    label: str
    counts: dict[str, int]
    trained: dict[str, str]
    calibrating: bool

    @classmethod
    def of(cls, layer: nn.Module, inputs: Layout, outputs: Layout) -> "PrefixBatchNorm":
        """The prefix layer with `layer`'s statistics as those of budget 1.0; forget them where a profile weighs."""
        prefix = super().of(layer, inputs, outputs)
        prefix.key, prefix.label, prefix.counts, prefix.calibrating = "100", "1.0", {}, False
        prefix.trained = {}
        before, prefix._buffers = layer._buffers, {}
        if prefix.track_running_stats:
            for name in _STATISTICS:
                prefix.register_buffer(f"{name}_{prefix.key}", before[name])
        return prefix

    def keys(self) -> list[str]:
        """The keys that have statistics."""
        start = f"{_STATISTICS[0]}_"
        return [name.removeprefix(start) for name in self._buffers if name.startswith(start)]

    def forget(self, key: str | None = None) -> None:
        """Drops the statistics of a key, or all."""
        for gone in self.keys() if key is None else {key} & set(self.keys()):
            self.counts.pop(gone, None)
            for name in _STATISTICS:
                del self._buffers[f"{name}_{gone}"]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the kept channels, shape (kept,) each; raises ConfigError if there are none."""
        if f"{_STATISTICS[0]}_{self.key}" not in self._buffers:
            raise ConfigError(
                f"the network has no batch-norm statistics for budget {self.label}: "
                f"call calibrate(net, batches, [{self.label}])"
            )
        mean, variance = (self._buffers[f"{name}_{self.key}"] for name in _STATISTICS)
        assert mean is not None
        assert variance is not None
        return mean, variance

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What eval mode multiplies each kept channel by, and then adds to it, shape (kept,) each."""
        mean, variance = self.statistics()
        weight, bias = self.part("weight"), self.part("bias")
        scale = torch.rsqrt(variance + self.eps) * (1 if weight is None else weight.detach())
        return scale, (0 if bias is None else bias.detach()) - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """Normalises with the batch's statistics in training, with the stored ones of the budget otherwise."""
        self._check_input_dim(x)  # type: ignore[operator]
        weight, bias = self.part("weight"), self.part("bias")
        if self.training or not self.track_running_stats:
            if self.track_running_stats and torch.is_grad_enabled():
                self._outdate()
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
        if self.calibrating:
            # A momentum of 1 / count is torch's cumulative average (momentum=None).
            count = self._one_more(x)
            return F.batch_norm(x, *self.statistics(), weight, bias, True, 1 / count, self.eps)
        return F.batch_norm(x, *self.statistics(), weight, bias, False, 0.0, self.eps)

    def _outdate(self) -> None:
        """Drops all statistics, and says so; remembers which budget is trained."""
        if self.keys():
            warnings.warn(
                "training drops the batch-norm statistics that were measured for budgets: calibrate(...) measures them "
                "anew. To run the network without training it, call net.eval() first",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
            self.forget()
        self.trained[self.key] = self.label

    def _one_more(self, x: Tensor) -> int:
        """Counts a batch of the budget of the moment; the first one makes the buffers."""
        count = self.counts[self.key] = self.counts.get(self.key, 0) + 1
        if count == 1:
            self.trained.pop(self.key, None)
            like = self.weight if isinstance(self.weight, Tensor) else x
            for name in _STATISTICS:
                zeros = torch.zeros(self.outputs.kept, dtype=like.dtype, device=x.device)
                self.register_buffer(f"{name}_{self.key}", zeros)
        return count

    def stored(self, key: str) -> dict[str, Tensor]:
        """The statistics of a key as they are, by the names of their buffers; empty if there are none."""
        names = [f"{name}_{key}" for name in _STATISTICS]
        return {name: self._buffers[name] for name in names if self._buffers.get(name) is not None}  # type: ignore[misc]

    def put_back(self, key: str, stored: dict[str, Tensor]) -> None:
        """Makes the statistics of a key what `stored` said that they were."""
        self.forget(key)
        for name, tensor in stored.items():
            self.register_buffer(name, tensor)

    def stand_in(self) -> None:
        """Mean 0 and variance 1 as the statistics of the budget of the moment."""
        dtype = self.weight.dtype if isinstance(self.weight, Tensor) else None
        for name, value in zip(_STATISTICS, (0.0, 1.0), strict=True):
            full = torch.full((self.outputs.kept,), value, dtype=dtype, device=self._device())
            self.register_buffer(f"{name}_{self.key}", full)

    def reset_running_stats(self) -> None:
        """Drops all statistics."""
        self.forget()

    def extracted(self) -> nn.Module:
        """The torch layer with the statistics of the budget of the moment."""
        layer = super().extracted()
        layer._buffers = dict.fromkeys([*_STATISTICS, "num_batches_tracked"])
        for name in ("key", "label", "counts", "trained", "calibrating"):
            del layer.__dict__[name]
        if self.track_running_stats:
            for name, tensor in zip(_STATISTICS, self.statistics(), strict=True):
                layer.register_buffer(name, tensor.clone())
            layer.register_buffer("num_batches_tracked", torch.tensor(0))
        return layer

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # The statistics are whichever ones the saved network had.
        self.forget()
        for name, tensor in state_dict.items():
            own = name.removeprefix(prefix)
            if name.startswith(prefix) and own.startswith(tuple(f"{s}_" for s in _STATISTICS)):
                key = own.rpartition("_")[2]
                kept = self.outputs.kept_at(int(key)) if key.isdigit() else None
                if tensor.dim() != 1 or (len(tensor) != kept if kept is not None else len(tensor) > self.outputs.full):
                    arguments[-1].append(f"{name} has shape {tuple(tensor.shape)}, but {kept} channels are kept there")
                    continue
                self.register_buffer(own, torch.empty_like(tensor, device=self._device()))
        # Not torch's own method for batch-norm, which would look for `num_batches_tracked`.
        nn.Module._load_from_state_dict(self, state_dict, prefix, *arguments)

    def _device(self) -> torch.device | None:
        return self.weight.device if isinstance(self.weight, Tensor) else None


class PrefixBatchNorm1d(PrefixBatchNorm, nn.BatchNorm1d):
    """`PrefixBatchNorm` over (batch, channels) or (batch, channels, length)."""

    plain = nn.BatchNorm1d


class PrefixBatchNorm2d(PrefixBatchNorm, nn.BatchNorm2d):
    """`PrefixBatchNorm` over (batch, channels, height, width)."""

    plain = nn.BatchNorm2d


class PrefixBatchNorm3d(PrefixBatchNorm, nn.BatchNorm3d):
    """`PrefixBatchNorm` over (batch, channels, depth, height, width)."""

    plain = nn.BatchNorm3d


class _PrefixInstanceNorm(_PerChannel):
    """Each channel of each sample normalised over its positions."""

    eps: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the kept channels."""
        return F.instance_norm(x, weight=self.part("weight"), bias=self.part("bias"), eps=self.eps)


class PrefixInstanceNorm1d(_PrefixInstanceNorm, nn.InstanceNorm1d):
    """`_PrefixInstanceNorm` over (batch, channels, length)."""

    plain = nn.InstanceNorm1d


class PrefixInstanceNorm2d(_PrefixInstanceNorm, nn.InstanceNorm2d):
    """`_PrefixInstanceNorm` over (batch, channels, height, width)."""

    plain = nn.InstanceNorm2d


class PrefixInstanceNorm3d(_PrefixInstanceNorm, nn.InstanceNorm3d):
    """`_PrefixInstanceNorm` over (batch, channels, depth, height, width)."""

    plain = nn.InstanceNorm3d


class PrefixGroupNorm(_PerChannel, nn.GroupNorm):
    """The kept groups, each normalised as in the full layer; with one group, the kept channels together.

    Shapes: (batch, kept channels, ...) to the same.
    """

    plain = nn.GroupNorm

    def sizes(self) -> dict[str, Any]:
        """Channels and groups."""
        kept = self.outputs.kept
        return {"num_channels": kept, "num_groups": max(1, kept * self.num_groups // self.num_channels)}

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the kept groups."""
        return F.group_norm(x, self.sizes()["num_groups"], self.part("weight"), self.part("bias"), self.eps)


class PrefixLayerNorm(_PerChannel, nn.LayerNorm):
    """Normalises over the kept channels and the dimensions after them.

    Shapes: (..., kept channels, *others) to the same, where the layer's shape is (channels, *others).
    """

    plain = nn.LayerNorm

    def sizes(self) -> dict[str, Any]:
        """Shape that is normalised over."""
        return {"normalized_shape": (self.outputs.kept, *self.normalized_shape[1:])}

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the kept channels."""
        shape = self.sizes()["normalized_shape"]
        return F.layer_norm(x, shape, self.part("weight"), self.part("bias"), self.eps)


class PrefixPReLU(_PerChannel, nn.PReLU):
    """A slope for each kept channel.

    Shapes: (batch, kept channels, ...) to the same.
    """

    plain = nn.PReLU

    def axes(self) -> dict[str, Axes]:
        """Channels."""
        return {"weight": (self.outputs,)}

    def sizes(self) -> dict[str, Any]:
        """Channels."""
        return {"num_parameters": self.outputs.kept}

    def forward(self, x: Tensor) -> Tensor:
        """Scales negative inputs."""
        weight = self.part("weight")
        assert weight is not None
        return F.prelu(x, weight)
