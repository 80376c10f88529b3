"""What several commands do first: open a saved network, and the images that it was trained on."""

from dataclasses import replace

from torch import nn

from tapernet.data import ImageData, Splits, load_data
from tapernet.errors import ConfigError
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import terminating_layers
from tapernet.saving import InputSpec, load_with_spec
from tapernet.zoo import trained


def open_net(net: str) -> tuple[nn.Module, InputSpec | None]:
    """A network from a file or the zoo; raises FileError if there is neither."""
    return load_with_spec(trained.find(net))


def open_dial(net: str) -> tuple[TaperedNet, InputSpec | None]:
    """A network with a dial; raises ConfigError if it has none."""
    network, spec = open_net(net)
    if terminating_layers(network) and not isinstance(network, TaperedNet):
        raise ConfigError(f"{net} holds a network that stops early without a dial: taper the network before terminate")
    if not isinstance(network, TaperedNet):
        raise ConfigError(f"{net} holds a network without a dial: taper it first")
    return network, spec


def open_images(net: str, spec: InputSpec | None, data: str | None) -> Splits:
    """Train and test images, standardised as the network's were.

    Raises:
        ConfigError: neither `data` nor the network tells where they are.
    """
    source = data or (spec.data if spec else None)
    if source is None:
        raise ConfigError(f"{net} does not tell where its images are: give --data")
    splits = load_data(source)
    if spec is None:
        return splits
    return Splits(_as_trained(splits.train, spec), _as_trained(splits.test, spec), splits.name)


def _as_trained(data: ImageData, spec: InputSpec) -> ImageData:
    return replace(data, mean=spec.mean, std=spec.std)
