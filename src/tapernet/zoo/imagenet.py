"""Weights that were trained on ImageNet, where torchvision can be had; the TESLA paper starts its VGG-16 from them."""

from typing import Any

import torch
from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.extras import need
from tapernet.registry import unknown

PUBLISHED = {("vgg16", False): "vgg16", ("vgg16", True): "vgg16_bn"}
"""torchvision's model by the name of the network here and whether it has batch-norm."""


def load_imagenet(net: nn.Module) -> None:
    """Replaces the weights of a network's convolutions and batch-norms by those of torchvision's same network.

    The linear layers stay as they are: they have other shapes, and the classes are others.

    Args:
        net: from `tapernet.zoo.create`, on a network with published weights and at full width.

    Raises:
        ConfigError: torchvision is missing or cannot fetch the weights, or it has none for this network.
    """
    entry: dict[str, Any] = getattr(net, "zoo_entry", None) or {"name": type(net).__name__, "arguments": {}}
    key = entry["name"], bool(entry["arguments"].get("batch_norm", False))
    if key not in PUBLISHED:
        raise ConfigError(unknown("network with ImageNet weights", key[0], sorted({name for name, _ in PUBLISHED})))
    models = need("torchvision.models", "imagenet", "starting from ImageNet weights")
    try:
        source = getattr(models, PUBLISHED[key])(weights="DEFAULT")
    except OSError as error:
        raise ConfigError(f"torchvision cannot fetch the weights of {PUBLISHED[key]}: {error}") from error
    copy_features(source.features, net)


@torch.no_grad()
def copy_features(source: nn.Module, net: nn.Module) -> None:
    """Copies convolutions and batch-norms one by one, in the order of the modules.

    A bias before a batch-norm, which the networks here do without, goes into the batch-norm's running mean.

    Raises:
        ConfigError: the two differ in number or shape.
    """
    theirs, ours = ([m for m in n.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))] for n in (source, net))
    shapes = [[(type(m), m.weight.shape) for m in layers] for layers in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise ConfigError("its convolutions differ from the published ones, which have width 1 and take three colours")
    bias: Tensor | None = None
    for a, b in zip(theirs, ours, strict=True):
        assert isinstance(b, (nn.Conv2d, nn.BatchNorm2d))
        b.weight.copy_(a.weight)
        if isinstance(a, nn.BatchNorm2d):
            b.load_state_dict(a.state_dict())
            if bias is not None and isinstance(b, nn.BatchNorm2d) and b.running_mean is not None:
                b.running_mean.sub_(bias)
        if b.bias is not None and a.bias is not None:
            b.bias.copy_(a.bias)
        bias = a.bias if isinstance(a, nn.Conv2d) and b.bias is None else None
