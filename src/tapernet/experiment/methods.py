"""What an experiment does to a trained network before it is fine-tuned. A new method is one function here."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tapernet.convert.terminate import terminate
from tapernet.data import ImageData
from tapernet.errors import ConfigError
from tapernet.nn.check import Check
from tapernet.nn.terminating import terminating_layers
from tapernet.placement import place_checks
from tapernet.prune import prune_filters
from tapernet.registry import Registry, unknown

METHODS: Registry[Callable[..., nn.Module]] = Registry("method")
"""From the trained network, the point of the curve, the training images, and the method's own options."""


@METHODS.register("none")
def none(base: nn.Module, point: float, train: ImageData, *, folded: bool = False) -> nn.Module:
    """The network as it is: the baseline, or with fine-tuning the control.

    Folded, its batch-norms go into the convolutions as early termination needs it, so that fine-tuning is the same.
    """
    return terminate(base, train.as_float()[:1]) if folded else base


@METHODS.register("terminate")
def stop_early(
    base: nn.Module,
    point: float,
    train: ImageData,
    *,
    order: str = "magnitude",
    bias_first: bool = False,
    gradient: str = "exact",
    placement: str = "greedy-paper",
    images: int | None = None,
    **options: Any,
) -> nn.Module:
    """Checks placed on the training images, or the first ones; the point is e_t, the options are the placement's."""
    net = terminate(base, train.as_float()[:1], order=order, bias_first=bias_first, gradient=gradient)
    some = train if images is None else train.take(range(min(images, len(train))))
    place_checks(net, some, tolerance=point, method=placement, **options)
    return net


@METHODS.register("check")
def check(base: nn.Module, point: float, train: ImageData, *, layer: str, **options: Any) -> nn.Module:
    """A check in one layer alone, whatever it does to the accuracy; the point is its position (ET paper, Table 1)."""
    net = terminate(base, train.as_float()[:1], **options)
    layers = terminating_layers(net)
    if layer not in layers:
        raise ConfigError(unknown("terminating layer", layer, layers))
    layers[layer].set_checks([Check(position=int(point))])
    return net


@METHODS.register("prune")
def prune(base: nn.Module, point: float, train: ImageData, *, method: str, **options: Any) -> nn.Module:
    """A baseline of `tapernet.prune`; the point is the share of filters left out."""
    return prune_filters(base, train, method=method, ratio=point, **options)


@METHODS.register("scratch")
def scratch(base: nn.Module, point: float, train: ImageData) -> nn.Module:
    """The network that pruning would leave, with new random weights."""
    net = prune_filters(base, train, method="pfec", ratio=point)
    for module in net.modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return net
