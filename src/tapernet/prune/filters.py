"""The filters of a model, what reads them, and their removal.

Which channels move together is told by the walk that `taper` takes, so that pruning and tapering hold for the same
models and refuse the same ones.
"""

import torch
from torch import Tensor, nn

from tapernet.convert.channels import ChannelSet, Runs, Use, find_channels
from tapernet.convert.rules import LAYERS
from tapernet.convert.taper import layout_of
from tapernet.errors import PruningError, TaperError
from tapernet.nn.group import ChannelGroup
from tapernet.nn.mode import eval_mode

Reader = nn.Conv2d | nn.Linear


class Filters:
    """The convolutions of a model from which filters can be removed.

    Args:
        model: changed by `remove`.
        image: a batch of one input, shape (1, channels, height, width).

    Attributes:
        readers: the layer that reads each convolution's channels, in the order in which the convolutions run.

    Raises:
        PruningError: the model does not run on the image, moves channels in a way that is not followed, or has no
            convolution from which filters can be removed.
    """

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        self.model = model
        try:
            with eval_mode(model):
                self._uses = find_channels(model, torch.cat([image, image]), frozenset())
        except TaperError as error:
            reason = str(error).partition("; keep=")[0].replace("cannot be tapered", "cannot be pruned")
            raise PruningError(reason) from error
        sets = dict.fromkeys(run.channels.root() for use in self._uses for run in (*use.inputs, *use.outputs))
        self._groups = {s: ChannelGroup(s.name, s.size, ["all-one"]) for s in sets if not s.whole}
        self._layouts = {
            id(runs): layout_of(runs, self._groups) for use in self._uses for runs in (use.inputs, use.outputs)
        }
        # Built while all layers have their full sizes, to which they relate those of the moment.
        self._prefixes = {
            use.path: LAYERS[type(layer)].of(layer, self._layouts[id(use.inputs)], self._layouts[id(use.outputs)])
            for use in self._uses
            for layer in [_copied(model.get_submodule(use.path))]
        }
        self._sets = {use.path: use.outputs[0].channels.root() for use in self._uses if self._prunable(use)}
        self.readers = {path: self._reader(path) for path in self._sets}
        if not self.readers:
            raise PruningError(f"{type(model).__name__} has no convolution from which filters can be removed")

    @property
    def widths(self) -> dict[str, int]:
        """Filters of each convolution."""
        return {path: self.conv(path).out_channels for path in self.readers}

    def conv(self, path: str) -> nn.Conv2d:
        """A convolution."""
        conv = self.model.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)
        return conv

    def reader(self, path: str) -> Reader:
        """What reads a convolution's channels."""
        reader = self.model.get_submodule(self.readers[path])
        assert isinstance(reader, (nn.Conv2d, nn.Linear))
        return reader

    def reads_alone(self, path: str) -> bool:
        """Whether the reader of a convolution's channels reads no others."""
        return next(len(use.inputs) for use in self._uses if use.path == self.readers[path]) == 1

    def remove(self, path: str, dropped: Tensor) -> None:
        """Removes filters of a convolution, and of every other layer what belongs to them.

        Args:
            path: of the convolution.
            dropped: numbers of the filters, shape (count,).
        """
        channels = self._sets[path]
        group = self._groups[channels]
        kept = torch.ones(group.kept, dtype=torch.bool)
        kept[dropped] = False
        touched = [use for use in self._uses if _holds(use.inputs, channels) or _holds(use.outputs, channels)]
        features = {id(runs): self._features(runs, channels, kept) for u in touched for runs in (u.inputs, u.outputs)}
        group.kept = int(kept.sum())
        for use in touched:
            self._cut(use, {id(self._layouts[key]): found for key, found in features.items()})

    def keep(self, path: str, score: Tensor, count: int) -> Tensor:
        """Removes all but the `count` filters of highest score, the first of equal ones; returns those it keeps."""
        best = score.sort(descending=True, stable=True).indices
        self.remove(path, best[count:].sort().values)
        return best[:count].sort().values

    def _features(self, runs: Runs, channels: ChannelSet, kept: Tensor) -> Tensor:
        """Which features of a value stay, bool, at its width of the moment."""
        parts = []
        for run in runs:
            root = run.channels.root()
            width = self._groups[root].kept if root in self._groups else root.size
            stays = kept if root is channels else torch.ones(width, dtype=torch.bool)
            parts.append(stays.repeat_interleave(run.repeat))
        return torch.cat(parts)

    def _cut(self, use: Use, features: dict[int, Tensor]) -> None:
        """Leaves those features of a layer's parameters, statistics and sizes."""
        layer, prefix = self.model.get_submodule(use.path), self._prefixes[use.path]
        for name, axes in prefix.axes().items():
            parameter = getattr(layer, name)
            if parameter is None:
                continue
            part = parameter.detach()
            for dim, axis in enumerate(axes):
                if axis is not None:
                    part = part.index_select(dim, features[id(axis)].nonzero()[:, 0].to(part.device))
            setattr(layer, name, nn.Parameter(part, parameter.requires_grad))
        for name, buffer in layer.named_buffers(recurse=False):
            if buffer.dim() == 1:  # a batch-norm's statistics
                setattr(layer, name, buffer[features[id(prefix.outputs)].to(buffer.device)])
        for name, size in prefix.sizes().items():
            setattr(layer, name, size)

    def _prunable(self, use: Use) -> bool:
        """Whether a layer is a convolution whose filters may go; raises PruningError if others hang on them."""
        if type(self.model.get_submodule(use.path)) is not nn.Conv2d or not use.mixes:
            return False
        channels = use.outputs[0].channels.root()
        if channels not in self._groups:
            return False
        writers = [u.path for u in self._uses if u.mixes and _holds(u.outputs, channels)]
        if len(writers) > 1 or channels.multiple > 1:
            raise PruningError(f"{use.path}: its filters are tied to those of another layer, by a sum or by groups")
        return True

    def _reader(self, path: str) -> str:
        found = [use.path for use in self._uses if use.mixes and _holds(use.inputs, self._sets[path])]
        if len(found) > 1:
            raise PruningError(f"{path}: its filters feed {len(found)} layers; the methods here know one")
        if not found or not isinstance(self.model.get_submodule(found[0]), (nn.Conv2d, nn.Linear)):
            raise PruningError(f"{path}: no convolution or linear layer reads its filters")
        return found[0]


def _holds(runs: Runs, channels: ChannelSet) -> bool:
    return any(run.channels.root() is channels for run in runs)


def _copied(layer: nn.Module) -> nn.Module:
    """The layer with parameters and buffers of its own dictionaries, which a prefix layer takes over."""
    copied = layer.__new__(type(layer))
    copied.__dict__.update(layer.__dict__)
    copied._parameters, copied._buffers = dict(layer._parameters), dict(layer._buffers)
    return copied


def l1_norms(weight: Tensor) -> Tensor:
    """Sum of |w| of each filter, shape (filters,)."""
    return weight.detach().abs().flatten(1).sum(1, dtype=torch.float64)
