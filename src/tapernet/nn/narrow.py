"""Training the sub-network of a budget as if it were the whole network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tapernet.nn.group import ChannelGroup
from tapernet.nn.net import Budget, TaperedNet
from tapernet.nn.prefix import Index, PrefixModule


@contextmanager
def narrowed(net: TaperedNet, budget: Budget, frozen: Budget | None = None) -> Iterator[list[nn.Parameter]]:
    """Makes `net`'s parameters those of the sub-network at `budget`, in the same memory, for the block.

    While it holds, gradients, optimizer state and updates exist only for that prefix: a step costs what the smaller
    network's step costs, and the weights beyond it stay as they are ("only these 50% of weights will be updated",
    TESLA paper, section 3.1).

    Args:
        net: the network.
        budget: the largest budget that will be run inside.
        frozen: weights that a sub-network of this budget already uses get no gradient (MP-IDP); layers that exist
            once for each range are not concerned.

    Yields:
        The parameters to train, the trainable profiles left out.
    """
    full: list[tuple[nn.Module, str, nn.Parameter]] = []
    parameters: list[nn.Parameter] = []
    hooks: list[RemovableHandle] = []
    lower = {} if frozen is None else _prefixes(net, frozen)
    with net.at(budget):
        try:
            for module in net.active_modules():
                cuts = _cuts(module)
                for name, parameter in list(module.named_parameters(recurse=False)):
                    part = _part(parameter, cuts.get(name))
                    if part is not parameter:
                        full.append((module, name, parameter))
                        module._parameters[name] = part
                    if not isinstance(module, ChannelGroup):
                        parameters.append(part)
                    if name in lower.get(id(module), {}):
                        hook = _zero_inside(lower[id(module)][name])
                        hooks.append(part.register_hook(hook))  # type: ignore[no-untyped-call]
            yield parameters
        finally:
            for handle in hooks:
                handle.remove()
            for module, name, parameter in full:
                module._parameters[name] = parameter


def _cuts(module: nn.Module) -> dict[str, Index]:
    if isinstance(module, ChannelGroup):
        return {"gamma": (slice(module.kept),)} if module.trainable else {}
    return module.prefix() if isinstance(module, PrefixModule) else {}


def _part(parameter: nn.Parameter, cut: Index | None) -> nn.Parameter:
    """The cut of a parameter as a parameter of its own over the same memory; itself if nothing is cut."""
    # Scattered features (after a concatenation) are no view of the memory, so that dimension stays whole. What is
    # unused of it gets gradients of zero; only weight decay still moves it.
    view = parameter.detach()[tuple(i if isinstance(i, slice) else slice(None) for i in cut or ())]
    return parameter if view.shape == parameter.shape else nn.Parameter(view, parameter.requires_grad)


def _prefixes(net: TaperedNet, budget: Budget) -> dict[int, dict[str, Index]]:
    """What the sub-network of `budget` uses of each module, by the module's id."""
    with net.at(budget):
        return {id(m): m.prefix() for m in net.active_modules() if isinstance(m, PrefixModule)}


def _zero_inside(index: Index) -> Callable[[Tensor], Tensor]:
    def hook(grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        grad[index] = 0
        return grad

    return hook
