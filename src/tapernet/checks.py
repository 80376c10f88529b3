"""What users hand over, checked before any work begins. Each function raises an error that names what it was given."""

import sys

import torch
from torch import Tensor, nn

from tapernet.convert.calibrate import standing_in
from tapernet.data.images import ImageData
from tapernet.errors import ConfigError, DataError, TapernetError
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import TaperedNet

MANY = 2**31
"""The bound of counts, far above any use, and below what torch refuses in words of its own."""


def check_number(
    name: str, value: object, low: float, high: float | None = None, *, whole: bool = False, above: bool = False
) -> None:
    """Raises ConfigError unless `value` is a finite number in [low, high].

    Args:
        name: of the field, for the message.
        value: what was given; True and False are no numbers.
        low: the least that is valid.
        high: the most that is valid; by default any finite number, or `MANY` of whole ones.
        whole: only whole numbers are valid.
        above: `low` itself is not valid.
    """
    most = high if high is not None else MANY if whole else sys.float_info.max
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if number and (low < value if above else low <= value) and value <= most:  # type: ignore[operator]
        return
    bounds = f"{'above' if above else 'from'} {low}" + ("" if high is None else f" to {high}")
    raise ConfigError(f"{name} is a {'whole' if whole else 'finite'} number {bounds}, not {value!r}")


def check_numbers(name: str, values: object, count: int, low: float = 0, *, whole: bool = False) -> None:
    """Raises ConfigError unless `values` are `count` numbers from `low`, in a tuple or list."""
    check_kind(name, values, (tuple, list), f"{count} numbers")
    assert isinstance(values, (tuple, list))
    if len(values) != count:
        raise ConfigError(f"{name}: {count} numbers, not {values!r}")
    for value in values:
        check_number(f"each of {name}", value, low, whole=whole)


def check_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raises ConfigError unless `value` is an instance of `kind`, which `expected` puts in words."""
    if not isinstance(value, kind):
        raise ConfigError(f"{name}: {expected}, not {describe(value)}")


def check_flag(name: str, value: object) -> None:
    """Raises ConfigError unless `value` is True or False."""
    check_kind(name, value, bool, "True or False")


def check_network(net: object, dtype: torch.dtype = torch.float32, whose: str = "the network") -> None:
    """Raises ConfigError unless `net` is a module with parameters of the images' type."""
    check_kind(whose, net, nn.Module, "a torch module")
    assert isinstance(net, nn.Module)
    for path, parameter in net.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            raise ConfigError(
                f"{whose} has {path} in {parameter.dtype}, but images are {dtype}: net.to({dtype}) converts it"
            )


def check_images(name: str, data: object) -> None:
    """Raises DataError unless `data` is an ImageData."""
    if not isinstance(data, ImageData):
        raise DataError(f"{name} is an ImageData, as load_data gives or ImageData(images, labels, class_names) makes, "
                        f"not {describe(data)}")  # fmt: skip


def check_scores(
    net: nn.Module, images: Tensor, classes: int, whose: str = "the network", *, spare: bool = False
) -> None:
    """Runs the network on two images, as a try.

    Args:
        net: in any mode; a network with a dial needs no batch-norm statistics.
        images: standardised, shape (n, channels, height, width).
        classes: of the images.
        whose: the network's name in messages.
        spare: it may have more outputs than there are classes.

    Raises:
        ConfigError: it is no network, of another type than the images, or fails on them.
        DataError: its output is no tensor of shape (n, classes).
    """
    check_network(net, images.dtype, whose)
    shape = tuple(images.shape[1:])
    if isinstance(net, TaperedNet) and shape != net.input_shape:
        raise DataError(f"the images have shape {shape}, but {whose} takes {net.input_shape}")
    parameter = next(net.parameters(), None)
    images = images[:2].to(None if parameter is None else parameter.device)
    try:
        with eval_mode(net), standing_in(net), torch.no_grad():
            scores = net(images)
    except TapernetError:
        raise
    except Exception as error:  # whatever the model's forward raises
        raise ConfigError(f"{whose} does not run on images of shape {shape}: {error}") from error
    found = tuple(scores.shape[1:]) if isinstance(scores, Tensor) else None
    if found is None:
        raise DataError(f"{whose} gives {describe(scores)}, not a tensor of scores: "
                        f"wrap it in a module that returns one")  # fmt: skip
    if len(found) != 1 or not (found[0] >= classes if spare else found[0] == classes):
        raise DataError(f"{whose} gives scores of shape {found} for an image, but the data set has {classes} "
                        f"classes")  # fmt: skip


def describe(value: object) -> str:
    """What was given, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(value).__name__} of shape {shape}"
    return repr(value) if value is None or isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
