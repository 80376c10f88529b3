"""The budget of an engine: what turning it changes, without the network's weights."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from tapernet.errors import ConfigError
from tapernet.nn.net import Budget, TaperedNet
from tapernet.nn.norm import PrefixBatchNorm


@dataclass(frozen=True, eq=False)
class Setting:
    """What the kernels need to know of a budget. An engine has one object for each, so that it is found by identity.

    Args:
        kept: channels of each group.
        range: number of the range of budgets, for several profiles.
        key: of the batch-norm statistics.
    """

    kept: tuple[int, ...]
    range: int
    key: str


class Dial:
    """A copy of what a network's budget moves: its channel groups, its batch-norm layers, and layers left to torch.

    Args:
        net: the network; one that is no `TaperedNet` has budget 1.0 alone.
        torch_layers: paths of the layers in the graph that torch runs.
    """

    def __init__(self, net: nn.Module, torch_layers: Iterable[str]) -> None:
        inner: nn.Module = net.model if isinstance(net, TaperedNet) else net
        groups = list(net.channel_groups) if isinstance(net, TaperedNet) else []
        norms = [m for m in inner.modules() if isinstance(m, PrefixBatchNorm)]
        layers = {path: inner.get_submodule(path) for path in torch_layers}
        # Together, so that the copied layers are cut by the copied groups.
        self.layers, groups, norms = copy.deepcopy((layers, groups, norms))
        for layer in self.layers.values():
            layer.eval()
        self.norms: list[PrefixBatchNorm] = norms
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
            return Setting((), 0, "100")
        before = self._net.budget
        self._net.budget = budget
        try:
            for norm in self.norms:
                if norm.track_running_stats:
                    norm.statistics()
        except ConfigError:
            self._net.budget = before
            raise
        key = self.norms[0].key if self.norms else "100"
        return Setting(self._net.kept_channels(), self._net.channel_groups[0].active, key)
