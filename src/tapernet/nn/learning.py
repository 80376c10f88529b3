"""Thresholds of checks that are trained with the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from tapernet.errors import ConfigError
from tapernet.nn.terminating import terminating_layers


@contextmanager
def learning_thresholds(net: nn.Module, scale: float = 1.0) -> Iterator[None]:
    """Lets training move the threshold of every check in every filter; after the block the checks have the new ones.

    Inside the block each layer with checks has a parameter more, `threshold_moves`, of zeros at first. A threshold is
    what it was, plus the scale times its entry there. The gated gradient tells it what it tells the partial sums: the
    loss wants it lower where a stop costs accuracy, a penalty on MACs higher (as thresholds learn in Zhang et al. 2020,
    "Precision Gating").

    Args:
        net: a network from `terminate` with the gradient "gated" and its checks, none of them of rounded sums.
        scale: positive; gradient descent moves thresholds by its square times what it would move a weight by.

    Raises:
        ConfigError: a scale out of range, no layer with checks, another gradient, a check of rounded sums, or
            thresholds that learn already.
    """
    layers = {path: layer for path, layer in terminating_layers(net).items() if layer.checks}
    if not 0 < scale < math.inf:
        raise ConfigError(f"the scale of thresholds that learn is positive and finite, not {scale!r}")
    if not layers:
        raise ConfigError(f"no thresholds can learn: {type(net).__name__} has no checks; place_checks places them")
    for path, layer in layers.items():
        if layer.options.gradient != "gated":
            raise ConfigError(f"{path}: thresholds learn with the gradient 'gated', not {layer.options.gradient!r}")
        if layer.rounds:
            raise ConfigError(f"{path}: the threshold of a rounded sum does not learn")
        if layer.threshold_moves is not None:
            raise ConfigError(f"{path}: its thresholds learn already")
    try:
        for layer in layers.values():
            layer.threshold_scale = scale
            layer.threshold_moves = nn.Parameter(layer.weight.new_zeros(len(layer.checks), layer.out_channels))
        yield
    finally:
        for layer in layers.values():
            learned, layer.threshold_moves = layer.learned_checks(), None
            layer.set_checks(learned)
