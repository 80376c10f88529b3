"""Networks by name. A network is one file here whose function is registered."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tapernet.errors import ConfigError
from tapernet.registry import Registry

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")


def create(name: str, **arguments: Any) -> nn.Module:
    """A new, untrained network.

    Args:
        name: one of `NETWORKS`.
        arguments: of the network's function; all have `input_shape` (channels, height, width) and `classes`.

    Raises:
        ConfigError: an unknown name or argument.
    """
    make = NETWORKS[name]
    try:
        model = make(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network {name!r}: {error}") from error
    # What `tapernet.save` writes, so that `tapernet.load` can build the network again.
    model.zoo_entry = {"name": name, "arguments": arguments}  # type: ignore[assignment]
    return model


from tapernet.zoo import c10net, mlp, mobilenet, nin, resnet, vgg  # noqa: E402, F401 (each file registers itself)
