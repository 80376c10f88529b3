"""The filters of a model, what reads them, and their removal."""

import torch
from torch import Tensor, nn

from tapernet.errors import PruningError
from tapernet.measure.macs import layer_macs
from tapernet.nn.mode import eval_mode


class Filters:
    """The convolutions of a model from which filters can be removed.

    Args:
        model: changed by `remove`.
        image: a batch of one input, shape (1, channels, height, width).

    Raises:
        PruningError: the model does not run on the image, or has no convolution from which filters can be removed.
    """

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        import torch_pruning as tp

        self.model = model
        self._outputs = tp.prune_conv_out_channels
        names = {module: path for path, module in model.named_modules()}
        try:
            with eval_mode(model):
                order = list(layer_macs(model, image))
                self._graph = tp.DependencyGraph().build_dependency(model, image)
        except Exception as error:  # whatever the model's forward raises
            raise PruningError(f"{type(model).__name__} does not run on an image of shape {tuple(image.shape)[1:]}: "
                               f"{error}") from error  # fmt: skip
        self.readers: dict[str, str] = {}
        """The layer that reads each convolution's channels, in the order in which the convolutions run."""
        modules = dict(model.named_modules())
        for path in order:
            conv = modules.get(path)
            if type(conv) is nn.Conv2d:
                readers = self._readers(path, conv)
                if readers:
                    self.readers[path] = names[readers[0]]
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

    def reader(self, path: str) -> nn.Conv2d | nn.Linear:
        """What reads a convolution's channels."""
        reader = self.model.get_submodule(self.readers[path])
        assert isinstance(reader, (nn.Conv2d, nn.Linear))
        return reader

    def remove(self, path: str, dropped: Tensor) -> None:
        """Removes filters of a convolution, with the batch-norm channels and next weights that belong to them.

        Args:
            path: of the convolution.
            dropped: numbers of the filters, shape (count,).
        """
        if dropped.numel():
            indices = dropped.tolist()
            self._graph.get_pruning_group(self.conv(path), self._outputs, indices).prune()

    def keep(self, path: str, score: Tensor, count: int) -> Tensor:
        """Removes all but the `count` filters of highest score, the first of equal ones; returns those it keeps."""
        best = score.sort(descending=True, stable=True).indices
        self.remove(path, best[count:].sort().values)
        return best[:count].sort().values

    def _readers(self, path: str, conv: nn.Conv2d) -> list[nn.Module]:
        """The layers that read the filters; none if they are the model's outputs."""
        group = self._graph.get_pruning_group(conv, self._outputs, [0])
        readers: list[nn.Module] = []
        for dependency, _ in group:
            module = dependency.target.module
            writes = self._graph.is_out_channel_pruning_fn(dependency.handler)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module is not conv:
                if writes or getattr(module, "groups", 1) != 1:
                    raise PruningError(f"{path}: its filters are tied to those of another layer, by a sum or by groups")
                readers.append(module)
        if len(readers) > 1:
            raise PruningError(f"{path}: its filters feed {len(readers)} layers; the methods here know one")
        return readers


def l1_norms(weight: Tensor) -> Tensor:
    """Sum of |w| of each filter, shape (filters,)."""
    return weight.detach().abs().flatten(1).sum(1, dtype=torch.float64)
