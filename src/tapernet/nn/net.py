"""The network with a dial."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tapernet.budget import to_percent
from tapernet.errors import ConfigError
from tapernet.nn.group import ChannelGroup
from tapernet.nn.norm import PrefixBatchNorm
from tapernet.nn.prefix import PrefixModule
from tapernet.nn.switch import Switch
from tapernet.profile import PROFILE_ORDERS
from tapernet.registry import unknown

REST = "*"
"""In a budget per layer, every layer that is not named."""

Budget = float | str | Mapping[str, float]
"""One share for all layers; the name of a budget that the network has; or a share for each named layer.

A budget per layer is a mapping from layer paths, and "*" for the rest (1.0 if left out), to shares. A layer stands for
its whole channel group: the layers that a residual sum ties together have one share.
"""

PROFILE_FLOOR = 0.1
"""Least coefficient of a trainable profile, which starts at 1: a channel at 0 would give its weights no gradient."""


class TaperedNet(nn.Module):
    """A model whose layers compute a prefix of their channels. `tapernet.taper` makes one.

    Its budget is a state of the object, as train and eval mode are: two threads that want two budgets at once need
    two copies.

    Args:
        model: the model with prefix layers in it.
        groups: what cuts its channels.
        input_shape: shape of one input, (channels, height, width).
        options: the arguments of `taper` that `tapernet.save` needs to build it again; named budgets are among them.

    Example:
        >>> import torch, tapernet as tn
        >>> net = tn.taper(tn.zoo.create("mlp"), torch.zeros(1, 1, 28, 28))
        >>> with net.at(0.5):
        ...     net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
        >>> with net.at({"fc1": 0.25, "*": 0.5}):
        ...     net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[ChannelGroup], input_shape: Sequence[int], options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.model, self.groups = model, nn.ModuleList(groups)
        self.input_shape, self.options = tuple(input_shape), options
        self._budget: Budget = 1.0
        # Plain tuples: walking all modules at every turn of the dial would cost more than a small layer.
        self._group_list = tuple(groups)
        self._switches = tuple(m for m in self.modules() if isinstance(m, Switch))
        self._norms = tuple(m for m in self.modules() if isinstance(m, PrefixBatchNorm))
        # A flattened image fixes the size of the image; a network that pools over it does not.
        layers = [m for m in self.modules() if isinstance(m, PrefixModule)]
        self._any_size = not any(span.repeat > 1 for layer in layers for span in layer.inputs.spans)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, shape (batch, classes), at the budget of the moment.

        Raises:
            ConfigError: x is not a batch of inputs of the network's shape (height and width may differ where the
                network does not flatten them into features), or the budget has no batch-norm statistics in eval mode.
        """
        shape, fixed = tuple(x.shape[1:]), 1 if self._any_size else len(self.input_shape)
        if len(shape) != len(self.input_shape) or shape[:fixed] != self.input_shape[:fixed]:
            raise ConfigError(
                f"the network takes batches of shape (n, {', '.join(map(str, self.input_shape))}), not {tuple(x.shape)}"
            )
        out: Tensor = self.model(x)
        return out

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "budget":  # past nn.Module, which would take a module for a part of the network
            self._turn(value)
        else:
            super().__setattr__(name, value)

    @property
    def budget(self) -> Budget:
        """The budget that is computed now: a share in (0, 1], or what else was set."""
        return self._budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self._turn(budget)

    def _turn(self, budget: Budget) -> None:
        percents = self._percents(budget)
        # Past nn.Module's own setter, whose checks for parameters cost more than the rest of this.
        self.__dict__["_budget"] = budget if isinstance(budget, (str, Mapping)) else percents[0] / 100
        for group, percent in zip(self._group_list, percents, strict=True):
            group.set_percent(percent)
        for switch in self._switches:
            switch.set_percent(percents[0])
        if self._norms:
            key, label = _key(percents), repr(self._budget)
            for norm in self._norms:
                norm.key, norm.label = key, label

    @contextmanager
    def at(self, budget: Budget) -> Iterator["TaperedNet"]:
        """Runs the block at `budget`, then goes back to the budget before it; raises ConfigError for a bad one."""
        before = self._budget
        self._turn(budget)
        try:
            yield self
        finally:
            self._turn(before)

    @property
    def budgets(self) -> dict[str, dict[str, float]]:
        """The named budgets per layer; they are saved with the network."""
        named: dict[str, dict[str, float]] = self.options.setdefault("budgets", {})
        return named

    def name_budget(self, name: str, budget: Mapping[str, float]) -> None:
        """Gives a budget per layer a name, under which `at` and everything else takes it from now on.

        Raises:
            ConfigError: the budget is not valid for this network, or the name is empty or looks like a number.
        """
        check_name(name)
        self._percents(budget)
        self.budgets[name] = {layer: float(share) for layer, share in budget.items()}

    @property
    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """What cuts the channels, in the order in which budgets are laid out."""
        return self._group_list

    def kept_channels(self) -> tuple[int, ...]:
        """Channels of each group that are kept at the budget of the moment."""
        return tuple(group.kept for group in self._group_list)

    def budget_of(self, percents: Sequence[int]) -> dict[str, float]:
        """The budget per layer with these percents of the groups, each under the first of its layers."""
        return {g.layers[0]: percent / 100 for g, percent in zip(self._group_list, percents, strict=True)}

    def batch_norms(self) -> tuple[PrefixBatchNorm, ...]:
        """The batch-norm layers, which need statistics for every budget; `tapernet.calibrate` measures them."""
        return self._norms

    def calibrated_budgets(self) -> list[Budget]:
        """The budgets that have batch-norm statistics, but for those per layer that have no name."""
        named = {_key(self._percents(name)): name for name in self.budgets}
        keys = self._norms[0].keys() if self._norms else []
        return [named[key] if key in named else int(key) / 100 for key in keys if key in named or key.isdigit()]

    @property
    def ranges(self) -> tuple[int, ...]:
        """Upper percent of each range of budgets that has a profile of its own; (100,) for a single profile."""
        return self._group_list[0].ranges

    def active_modules(self) -> Iterator[nn.Module]:
        """Every module that runs at the budget of the moment."""
        idle = {id(m) for s in self._switches for v in s.idle() for m in v.modules()}
        return (m for m in self.modules() if id(m) not in idle)

    def active_parameters(self) -> Iterator[Tensor]:
        """The part of each parameter that the budget of the moment uses, profiles left out (they fold away)."""
        for module in self.active_modules():
            if isinstance(module, ChannelGroup):
                continue
            cuts = module.prefix() if isinstance(module, PrefixModule) else {}
            for name, parameter in module.named_parameters(recurse=False):
                yield parameter[cuts[name]] if name in cuts else parameter

    def profiles(self) -> list[nn.Parameter]:
        """The trainable profiles, one for each group; empty if the profile is fixed."""
        return [g.gamma for g in self._group_list if g.trainable]

    @torch.no_grad()
    def order_profiles(self, order: str = "cumulative-minimum") -> None:
        """Makes the trainable profiles non-increasing again after a step, by one of `tapernet.profile.PROFILE_ORDERS`.

        No coefficient stays below `PROFILE_FLOOR`.
        """
        for gamma in self.profiles():
            gamma.copy_(PROFILE_ORDERS[order](gamma).clamp_min(PROFILE_FLOOR))

    def _percents(self, budget: Budget) -> list[int]:
        """The percent of each channel group."""
        if isinstance(budget, str):
            if budget not in self.budgets:
                raise ConfigError(unknown("named budget", budget, self.budgets))
            budget = self.budgets[budget]
        if not isinstance(budget, Mapping):
            return [to_percent(budget)] * len(self._group_list)
        if len(self.ranges) > 1:
            raise ConfigError("a network with several profiles takes one budget for all its layers")
        layers = [layer for g in self._group_list for layer in g.layers]
        for layer in budget:
            if layer not in (*layers, REST):
                raise ConfigError(unknown("layer in a budget", layer, [*layers, REST]))
        rest = to_percent(budget.get(REST, 1.0))
        return [_one_percent(group, budget, rest) for group in self._group_list]


def at(net: nn.Module, budget: Budget) -> AbstractContextManager[object]:
    """`net.at(budget)`; for a network without a dial, nothing, if the budget is 1.0."""
    if isinstance(net, TaperedNet):
        return net.at(budget)
    if budget != 1:
        raise ConfigError(f"{type(net).__name__} has no dial: it runs at budget 1.0, not {budget!r}")
    return nullcontext()


def check_name(name: str) -> None:
    """Raises ConfigError for what cannot be the name of a budget."""
    if not name or not name[0].isalpha():
        raise ConfigError(f"the name of a budget starts with a letter, unlike {name!r}")


def budget_name(budget: Budget) -> str:
    """What a budget is called in a table or a figure."""
    if isinstance(budget, str):
        return budget
    return "per layer" if isinstance(budget, Mapping) else f"{budget:.0%}"


def _one_percent(group: ChannelGroup, budget: Mapping[str, float], rest: int) -> int:
    """What a budget per layer says about one group; its layers must agree."""
    said = {layer: to_percent(budget[layer]) for layer in group.layers if layer in budget}
    if len(set(said.values())) > 1:
        raise ConfigError(f"layers {', '.join(said)} share their channels and need the same budget")
    return next(iter(said.values()), rest)


def _key(percents: Sequence[int]) -> str:
    """The name of a budget's statistics: its percent, or where groups differ a digest of all."""
    if len(set(percents)) == 1:
        return str(percents[0])
    # Named by content, so that a budget measured before it had a name keeps its statistics.
    return "x" + hashlib.sha256(repr(list(percents)).encode()).hexdigest()[:16]
