"""The network with a dial."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tapernet.budget import to_percent
from tapernet.errors import ConfigError
from tapernet.nn.group import ChannelGroup
from tapernet.nn.prefix import PrefixModule
from tapernet.nn.switch import Switch


class TaperedNet(nn.Module):
    """A model whose layers compute a prefix of their channels. `tapernet.taper` makes one.

    Its budget is a state of the object, as train and eval mode are: two threads that want two budgets at once need
    two copies.

    Args:
        model: the model with prefix layers in it.
        groups: what cuts its channels.
        input_shape: shape of one input, (channels, height, width).
        options: the arguments of `taper` that `tapernet.save` needs to build it again.

    Example:
        >>> import torch, tapernet as tn
        >>> net = tn.taper(tn.zoo.create("mlp"), torch.zeros(1, 1, 28, 28))
        >>> with net.at(0.5):
        ...     net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[ChannelGroup], input_shape: Sequence[int], options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.model, self.groups = model, nn.ModuleList(groups)
        self.input_shape, self.options = tuple(input_shape), options
        self._percent = 100
        # A plain tuple: walking all modules at every turn of the dial would cost more than a small layer.
        self._dialled = tuple(m for m in self.modules() if isinstance(m, (ChannelGroup, Switch)))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, shape (batch, classes), at the budget of the moment.

        Raises:
            ConfigError: x is not a batch of inputs of the network's shape.
        """
        if tuple(x.shape[1:]) != self.input_shape:
            raise ConfigError(f"the network takes batches of shape (n, {', '.join(map(str, self.input_shape))}), "
                              f"not {tuple(x.shape)}")
        out: Tensor = self.model(x)
        return out

    @property
    def budget(self) -> float:
        """The share of channels that is computed now, in (0, 1]."""
        return self._percent / 100

    @budget.setter
    def budget(self, budget: float) -> None:
        self._percent = to_percent(budget)
        for module in self._dialled:
            module.set_percent(self._percent)

    @contextmanager
    def at(self, budget: float) -> Iterator["TaperedNet"]:
        """Runs the block at `budget`, then goes back to the budget before it; raises ConfigError for a bad one."""
        before = self.budget
        self.budget = budget
        try:
            yield self
        finally:
            self.budget = before

    @property
    def ranges(self) -> tuple[int, ...]:
        """Upper percent of each range of budgets that has a profile of its own; (100,) for a single profile."""
        group = self.groups[0]
        assert isinstance(group, ChannelGroup)
        return group.ranges

    def active_modules(self) -> Iterator[nn.Module]:
        """Every module that runs at the budget of the moment."""
        idle = {id(m) for s in self.modules() if isinstance(s, Switch) for v in s.idle() for m in v.modules()}
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
        return [g.gamma for g in self.groups if g.trainable]

    @torch.no_grad()
    def order_profiles(self) -> None:
        """Makes the trainable profiles non-increasing again after a step (TESLA paper, section 3.4)."""
        for gamma in self.profiles():
            gamma.copy_(gamma.cummin(0).values)


def at(net: nn.Module, budget: float) -> AbstractContextManager[object]:
    """`net.at(budget)`; for a network without a dial, nothing, if the budget is 1.0."""
    if isinstance(net, TaperedNet):
        return net.at(budget)
    if budget != 1:
        raise ConfigError(f"{type(net).__name__} has no dial: it runs at budget 1.0, not {budget!r}")
    return nullcontext()
