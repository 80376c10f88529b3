"""`extract`: the network of one budget as an ordinary torch module."""

import copy
from typing import Any

from torch import fx, nn

from tapernet.errors import ConfigError
from tapernet.nn.net import Budget, TaperedNet
from tapernet.nn.prefix import PrefixModule
from tapernet.nn.switch import Switch
from tapernet.nn.terminating import TerminatingConv2d


def extract(net: TaperedNet, budget: Budget) -> nn.Module:
    """A module of the smaller size that computes what `net` computes at `budget`.

    Its layers are torch's own, with copies of the kept weights, the profile folded into the weights of the layers that
    read it, and the batch-norm statistics of the budget. Modules of the user's stay theirs; a network of the zoo with
    classes of its own comes back as a `torch.fx.GraphModule`, so that nothing in it needs this library. It can be
    trained, compiled, exported and saved like any other.

    Args:
        net: the network, which is not changed; the result has its mode, dtype and device.
        budget: of the sub-network.

    Raises:
        ConfigError: a network without a dial, a bad budget, or one without batch-norm statistics.
    """
    if not isinstance(net, TaperedNet):
        raise ConfigError(f"{type(net).__name__} has no dial, so there is no smaller network in it: taper it first")
    with net.at(budget):
        # A deep copy looks up what is copied already, so the plain layers stand wherever the prefix layers did.
        copied: dict[int, Any] = {
            id(m): _plain(m) for m in net.model.modules() if isinstance(m, (PrefixModule, Switch))
        }
        model: nn.Module = copy.deepcopy(net.model, copied)
    vars(model).pop("zoo_entry", None)  # it describes the full network
    ours = any(type(module).__module__.partition(".")[0] == "tapernet" for module in model.modules())
    # Layers that stop early have no counterpart in torch, and stay.
    stops = any(isinstance(module, TerminatingConv2d) for module in model.modules())
    return fx.symbolic_trace(model) if ours and not stops else model


def _plain(module: PrefixModule | Switch) -> nn.Module:
    layer: nn.Module = module.versions[module.active] if isinstance(module, Switch) else module
    assert isinstance(layer, PrefixModule)
    return layer.extracted()
