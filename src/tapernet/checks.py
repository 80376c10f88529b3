"""What users hand over, checked before any work begins. Each function raises an error that names what it was given."""

import sys
from contextlib import AbstractContextManager, nullcontext

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


def check_network(net: object, whose: str = "the network") -> None:
    """Raises ConfigError unless `net` is a module with parameters in single precision, as images are."""
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{whose} is a torch module, not {describe(net)}")
    for path, parameter in net.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ConfigError(f"{whose} has {path} in {parameter.dtype}, but images are float32: "
                              f"net.float() converts it")


def check_images(name: str, data: object) -> None:
    """Raises DataError unless `data` is an ImageData."""
    if not isinstance(data, ImageData):
        raise DataError(f"{name} is an ImageData, as load_data gives or ImageData(images, labels, class_names) makes, "
                        f"not {describe(data)}")  # fmt: skip


def check_batch(name: str, batch: object) -> None:
    """Raises DataError unless `batch` is a tensor of one input or more, in floating point."""
    if not isinstance(batch, Tensor):
        raise DataError(f"{name} is a tensor of shape (n, ...), not {describe(batch)}")
    if batch.dim() < 2 or len(batch) == 0 or not batch.is_floating_point():
        raise DataError(f"{name} is a batch of one input or more in floating point, not {describe(batch)}")


def check_scores(net: nn.Module, data: ImageData, whose: str = "the network", *, spare: bool = False) -> None:
    """Runs the network on two images, as a try.

    Args:
        net: in any mode; a network with a dial needs no batch-norm statistics.
        data: whose images and classes the network should suit.
        whose: the network's name in messages.
        spare: it may have more outputs than there are classes.

    Raises:
        ConfigError: it is no network, not in single precision, or fails on the images.
        DataError: its output is no tensor of shape (n, classes).
    """
    check_network(net, whose)
    if isinstance(net, TaperedNet) and data.shape != net.input_shape:
        raise DataError(f"the images have shape {data.shape}, but {whose} takes {net.input_shape}")
    parameter = next(net.parameters(), None)
    images = data.as_float()[:2].to(None if parameter is None else parameter.device)
    stand_in: AbstractContextManager[None] = standing_in(net) if isinstance(net, TaperedNet) else nullcontext()
    try:
        with eval_mode(net), stand_in, torch.no_grad():
            scores = net(images)
    except TapernetError:
        raise
    except Exception as error:  # whatever the model's forward raises
        raise ConfigError(f"{whose} does not run on images of shape {data.shape}: {error}") from error
    found = tuple(scores.shape[1:]) if isinstance(scores, Tensor) else None
    if found is None:
        raise DataError(f"{whose} gives {describe(scores)}, not a tensor of scores: "
                        f"wrap it in a module that returns one")  # fmt: skip
    if len(found) != 1 or not (found[0] >= data.classes if spare else found[0] == data.classes):
        raise DataError(f"{whose} gives scores of shape {found} for an image, but the data set has {data.classes} "
                        f"classes")  # fmt: skip


def describe(value: object) -> str:
    """What was given, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(value).__name__} of shape {shape}"
    return repr(value) if value is None or isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
