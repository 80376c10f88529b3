"""What an experiment does to a trained network before it is fine-tuned. A new method is one function here."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tapernet.convert.terminate import terminate
from tapernet.data import ImageData
from tapernet.placement import place_checks
from tapernet.prune import prune_filters
from tapernet.registry import Registry

METHODS: Registry[Callable[..., nn.Module]] = Registry("method")
"""From the trained network, the point of the curve, the training images, and the method's own options."""


@METHODS.register("none")
def none(base: nn.Module, point: float, train: ImageData) -> nn.Module:
    """The network as it is: the baseline, or with fine-tuning the control."""
    return base


@METHODS.register("terminate")
def stop_early(
    base: nn.Module,
    point: float,
    train: ImageData,
    *,
    order: str = "magnitude",
    bias_first: bool = False,
    placement: str = "greedy-paper",
    **options: Any,
) -> nn.Module:
    """Checks placed on the training images; the point is the tolerance e_t, the options those of the placement."""
    net = terminate(base, train.as_float()[:1], order=order, bias_first=bias_first)
    place_checks(net, train, tolerance=point, method=placement, **options)
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
