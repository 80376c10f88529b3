"""The budget of an engine: what turning it changes, without the network's weights."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from tapernet.engine.layers import Variant
from tapernet.errors import ConfigError
from tapernet.nn.net import Budget, TaperedNet
from tapernet.nn.norm import PrefixBatchNorm


@dataclass(frozen=True, eq=False)
class Setting:
    """What the kernels need to know of a budget. A dial has one object for each, so that it is found by identity.

    Args:
        kept: channels of each group.
        range: number of the range of budgets, for several profiles.
        norms: scale and shift of each batch-norm's kept channels.
    """

    kept: tuple[int, ...]
    range: int
    norms: tuple[Variant, ...]


class Dial:
    """A copy of what a network's budget moves: its channel groups, its batch-norm layers, and layers left to torch.

    Args:
        net: the network; one that is no `TaperedNet` has budget 1.0 alone.
        torch_layers: paths of the layers in the graph that torch runs.
    """

    def __init__(self, net: nn.Module, torch_layers: Iterable[str]) -> None:
        inner: nn.Module = net.model if isinstance(net, TaperedNet) else net
        groups = list(net.channel_groups) if isinstance(net, TaperedNet) else []
        norms = running_norms(inner)
        layers = {path: inner.get_submodule(path) for path in torch_layers}
        # Together, so that the copied layers are cut by the copied groups.
        self.layers, groups, norms = copy.deepcopy((layers, groups, norms))
        for layer in self.layers.values():
            layer.eval()
        self._norms: list[PrefixBatchNorm] = norms
        self._settings: dict[object, Setting] = {}
        self._net: TaperedNet | None = None
        if isinstance(net, TaperedNet):
            modules = nn.ModuleList([*self.layers.values(), *norms]).eval()
            self._net = TaperedNet(modules, groups, net.input_shape, copy.deepcopy(net.options))

    @property
    def budget(self) -> Budget:
        """The budget of the moment."""
        return 1.0 if self._net is None else self._net.budget

    @property
    def budgets(self) -> Mapping[str, Mapping[str, float]]:
        """The named budgets per layer."""
        return {} if self._net is None else self._net.budgets

    def turn(self, budget: Budget) -> Setting:
        """Sets the budget.

        Raises:
            ConfigError: not a budget of this network, or one without batch-norm statistics.
        """
        if self._net is None:
            if budget != 1:
                raise ConfigError(f"the network has no dial: it runs at budget 1.0, not {budget!r}")
            return self._settings.setdefault(None, Setting((), 0, ()))
        before = self._net.budget
        self._net.budget = budget
        try:
            return self._setting(self._net)
        except ConfigError:
            self._net.budget = before
            raise

    def _setting(self, net: TaperedNet) -> Setting:
        kept, active = net.kept_channels(), net.channel_groups[0].active
        content = kept, active, self._norms[0].key if self._norms else None
        if content not in self._settings:
            self._settings[content] = Setting(kept, active, tuple(norm.scale_and_shift() for norm in self._norms))
        return self._settings[content]


def running_norms(model: nn.Module) -> list[PrefixBatchNorm]:
    """The batch-norms that have statistics for each budget, in the order of `Setting.norms`."""
    return [m for m in model.modules() if isinstance(m, PrefixBatchNorm) and m.track_running_stats]
