"""A penalty on the MACs that a terminating network does, for a loss to add."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.nn.terminating import terminating_layers
from tapernet.registry import unknown


@contextmanager
def estimating_macs(net: nn.Module, temperature: float = 0.1) -> Iterator[None]:
    """Lets every call in training leave a differentiable estimate of its MACs, for `mac_penalty`, inside the block.

    A filter with partial sum u_t and threshold T is taken to stop with probability sigmoid((T - u_t) / s), where s is
    the temperature times the standard deviation of the layer's partial sums. As the temperature falls, the estimate
    tends to the share that is done, and its gradient to zero.

    Args:
        net: a network from `tapernet.terminate`.
        temperature: positive.

    Raises:
        ConfigError: a temperature that is not positive, or a network without terminating layers.
    """
    layers = terminating_layers(net).values()
    if not layers:
        raise ConfigError(f"{type(net).__name__} has no terminating layer: call terminate(model, example) first")
    if not temperature > 0:
        raise ConfigError(f"the temperature is positive, not {temperature!r}")
    before = [layer.temperature for layer in layers]
    try:
        for layer in layers:
            layer.temperature = temperature
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.temperature = value
            layer.take_estimate()


def mac_penalty(net: nn.Module, weights: Mapping[str, float] | None = None) -> Tensor:
    """The estimated share of the terminating layers' MACs that the last call did, a scalar in [0, 1].

    Differentiable; to be added to the loss with a factor. The estimate is forgotten once it is read.

    Args:
        net: a network from `tapernet.terminate`.
        weights: by which the layers' shares are averaged, by path; a layer that is not named has weight 0. By default
            a layer weighs as much as it has MACs.

    Raises:
        ConfigError: no call in training since the last time, or not inside `estimating_macs`; a path without a
            terminating layer.
    """
    layers = terminating_layers(net)
    for path in weights or ():
        if path not in layers:
            raise ConfigError(unknown("terminating layer", path, layers))
    estimates = {path: e for path, layer in layers.items() if (e := layer.take_estimate()) is not None}
    if not estimates:
        raise ConfigError("there is no estimate of MACs: call the network in training mode inside estimating_macs(net)")
    sizes = {path: macs if weights is None else weights.get(path, 0.0) for path, (macs, _) in estimates.items()}
    total = sum(sizes.values()) or 1  # a batch without images costs nothing
    return torch.stack([share * (sizes[path] / total) for path, (_, share) in estimates.items()]).sum()
