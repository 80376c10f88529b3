"""Batch-norm statistics for any budget."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tapernet.budget import several
from tapernet.errors import ConfigError
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import Budget, TaperedNet


def calibrate(net: TaperedNet, batches: Iterable[Tensor | Sequence[Tensor]], budgets: Iterable[Budget]) -> None:
    """Measures the batch-norm statistics of each budget and stores them with the network.

    A statistic is the average over the batches of the batch's mean, and of its unbiased variance, with every layer
    before it normalising by the batch: what `torch.optim.swa_utils.update_bn` computes for a network of the smaller
    size. Dropout is off, and the weights do not change. The statistics are saved and loaded with the network; training
    drops them. A network without batch-norm is left as it is, and no batch is drawn.

    Args:
        net: the network; left in the mode and at the budget it was in.
        batches: a few batches of training images on the network's device, each shape (n, channels, height, width) with
            n > 1; of a sequence such as (images, labels), the first. They are drawn once.
        budgets: what to measure; earlier statistics of these budgets are replaced, others stay.

    Raises:
        ConfigError: no network with a dial; a budget is not valid; there is no batch; a batch has one image, or does
            not fit the network. Earlier statistics are then as they were.
    """
    if not isinstance(net, TaperedNet):
        raise ConfigError(f"calibrate takes a network from taper, not a {type(net).__name__}")
    budgets = several(budgets)
    for budget in budgets:
        with net.at(budget):
            pass
    if not net.batch_norms():
        return
    before = [(layer, {key: layer.stored(key) for key in layer.keys()}) for layer in net.batch_norms()]  # noqa: SIM118
    try:
        _measure(net, batches, budgets)
    except BaseException:
        for layer, stored in before:
            layer.forget()
            for key, tensors in stored.items():
                layer.put_back(key, tensors)
        raise


def _measure(net: TaperedNet, batches: Iterable[Tensor | Sequence[Tensor]], budgets: Sequence[Budget]) -> None:
    drawn = 0
    with measuring(net):
        for drawn, batch in enumerate(_drawn(batches), start=1):
            images = batch if isinstance(batch, Tensor) else batch[0] if isinstance(batch, Sequence) else None
            if not isinstance(images, Tensor) or images.dim() == 0:
                raise ConfigError(f"a batch is a tensor of images, or a sequence that starts with one, "
                                  f"not a {type(batch).__name__}")  # fmt: skip
            if len(images) < 2:
                raise ConfigError(f"batch {drawn} has {len(images)} image, whose batch-norm has no variance: "
                                  f"leave it out, or join it to another")  # fmt: skip
            for budget in budgets:
                with net.at(budget):
                    if drawn == 1:
                        forget(net)
                    _run(net, images)
    if not drawn:
        raise ConfigError("calibrate needs at least one batch of images")


def _drawn(batches: Iterable[Tensor | Sequence[Tensor]]) -> Iterator[Tensor | Sequence[Tensor]]:
    try:
        return iter(batches)
    except TypeError:
        raise ConfigError(f"batches are several tensors of images, as in [images], not {batches!r}") from None


def _run(net: TaperedNet, images: Tensor) -> None:
    try:
        net(images)
    except RuntimeError as error:
        raise ConfigError(f"the network does not run on images of {images.dtype}, shape {tuple(images.shape)}: "
                          f"{error}") from error  # fmt: skip


def few_batches(images: Tensor, count: int, batch_size: int) -> list[Tensor]:
    """The first `count` images in batches that statistics can be measured on, which have two images or more."""
    return [batch for batch in torch.split(images[:count], batch_size) if len(batch) > 1]


def forget(net: TaperedNet) -> None:
    """Drops the batch-norm statistics of the budget that is set."""
    for layer in net.batch_norms():
        layer.forget(layer.key)


@contextmanager
def measuring(net: TaperedNet) -> Iterator[None]:
    """The network in eval mode without gradients, but with batch-norm averaging the batches that pass."""
    for layer in net.batch_norms():
        layer.calibrating = True
    try:
        with eval_mode(net), torch.no_grad():
            yield
    finally:
        for layer in net.batch_norms():
            layer.calibrating = False


@contextmanager
def calibrated(net: TaperedNet, batches: Iterable[Tensor | Sequence[Tensor]], budget: Budget) -> Iterator[None]:
    """The network at `budget` for the block, with statistics measured for it alone.

    Afterwards the network's statistics are what they were, so that trying many budgets leaves nothing behind.
    """
    with net.at(budget):
        before = [(layer, layer.key, layer.stored(layer.key)) for layer in net.batch_norms()]
        try:
            calibrate(net, batches, [budget])
            yield
        finally:
            for layer, key, stored in before:
                layer.put_back(key, stored)


@contextmanager
def standing_in(net: nn.Module) -> Iterator[None]:
    """Lets the network run in eval mode for the block at the budget that is set, where the values do not matter.

    Batch-norms without statistics for that budget have mean 0 and variance 1 until the block ends. A network without a
    dial has all that it needs.
    """
    norms = net.batch_norms() if isinstance(net, TaperedNet) else ()
    lacking = [layer for layer in norms if layer.key not in layer.keys()]  # noqa: SIM118 (not a dict)
    keys = [layer.key for layer in lacking]
    try:
        for layer in lacking:
            layer.stand_in()
        yield
    finally:
        for layer, key in zip(lacking, keys, strict=True):
            layer.forget(key)
