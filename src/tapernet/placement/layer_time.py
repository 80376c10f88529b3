"""What each terminating layer takes on this machine, as a function of where it checks and how many outputs go on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from tapernet.engine.choose import fastest_times
from tapernet.engine.compile import compile
from tapernet.engine.native import extension
from tapernet.errors import ConfigError
from tapernet.measure.inputs import Labelled, images_of
from tapernet.measure.termination import count_termination
from tapernet.nn.check import Check
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import TerminatingConv2d, checks_set, terminating_layers
from tapernet.placement import spread_sample
from tapernet.placement.rerun import Checks

TIMED = 16
"""Images that are timed, or a batch if that is more."""
NEVER, ALWAYS = -1e30, 1e30
"""Thresholds at which no output stops, and every one."""


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of a layer for one image, linear in where it checks and in how many outputs go on.

    Partial sums take time in proportion to their terms, and full sums are of the survivors alone.

    Args:
        dense: without checks.
        start: with a check, whatever it does.
        per_share: for partial sums over all terms, and in proportion for a share of them.
        per_survivor: for the full sums of all outputs, and in proportion for a share of them.
    """

    dense: float
    start: float
    per_share: float
    per_survivor: float

    def stopping(self, share: float, survivors: float) -> float:
        """With a check at a share of the terms, which a share of the outputs survives."""
        return self.start + self.per_share * share + self.per_survivor * survivors

    @classmethod
    def fit(cls, dense: float, share: Sequence[float], survivors: Sequence[float], measured: Sequence[float]) -> Self:
        """By least squares; where all shares are equal, it tells times at that share alone.

        Args:
            dense: milliseconds without checks.
            share: of the terms before the check, in each measurement.
            survivors: share of the outputs that went on.
            measured: milliseconds.
        """
        columns = torch.tensor([[1.0, *row] for row in zip(share, survivors, strict=True)], dtype=torch.float64)
        times = torch.tensor(measured, dtype=torch.float64)[:, None]
        # This driver finds the smallest of many solutions, where there are many.
        found = torch.linalg.lstsq(columns, times, driver="gelsd").solution
        return cls(dense, *found[:, 0].tolist())


def time_weights(net: nn.Module, images: Labelled | Tensor, *, batch_size: int = 1) -> dict[str, float]:
    """Weights for `FineTune(penalty_weights=...)`: where stopping more would save time on this machine.

    A layer's weight is the time between all outputs surviving its checks and none, where it is never slower than the
    dense kernel, since `tapernet.compile` would take that; so a layer that cannot become faster weighs nothing. It is
    divided by the share of MACs between the two, as the penalty counts MACs.

    Args:
        net: a network from `tapernet.terminate` with checks, on the CPU; one with a dial at the budget that is set.
        images: standardised, shape (n, channels, height, width), or a data set; a few of them are timed.
        batch_size: images in a call of the engine.

    Returns:
        Milliseconds an image, to three digits, by the paths of the layers with checks that the kernels run. They differ
        from call to call, as timings do: keep them with the run.

    Raises:
        ConfigError: no layer has checks; the kernels were not built or run none of the layers; a batch size below 1.
    """
    placed = {path: layer.checks for path, layer in terminating_layers(net).items() if layer.checks}
    if not placed:
        raise ConfigError(f"{type(net).__name__} has no layer with checks: place_checks was not called, or found none "
                          f"worth placing")  # fmt: skip
    settings = [
        {path: tuple(_moved(check, threshold) for check in checks) for path, checks in placed.items()}
        for threshold in (NEVER, None, ALWAYS)
    ]
    weights = {}
    with _any_threshold(net):
        times = fit_layer_times(net, images, settings, batch_size=batch_size)
    for path, time in times.items():
        share = first_share(terminating_layers(net)[path], placed[path])
        saved = max(0.0, time.dense - time.stopping(share, 0.0))
        weights[path] = float(f"{saved / (1 - share):.3g}") if share < 1 else 0.0
    return weights


def fit_layer_times(
    net: nn.Module, images: Labelled | Tensor, settings: Sequence[Checks], *, batch_size: int = 1
) -> dict[str, LayerTime]:
    """The time model of each layer that has checks and whose kernels were timed, by path.

    Args:
        net: a network from `tapernet.terminate`; its checks are as before afterwards.
        images: some of them are timed.
        settings: checks to time, of some layers, the same ones in all settings. Two or more survivor shares are needed.
        batch_size: images in a call of the engine.

    Raises:
        ConfigError: the kernels were not built, or run none of the layers; a batch size below 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"layers are timed on batches of a whole number of images from 1, not {batch_size!r}")
    x = images_of(images)
    x, _ = spread_sample(x, x, max(TIMED, batch_size))
    survivors = [_survivors(net, x, checks) for checks in settings]
    dense, *stopping = measure_layers(net, x, [{}, *settings], batch_size)
    layers, found = terminating_layers(net), {}
    for path in settings[0]:
        if all(path in times for times in (dense, *stopping)):
            shares = [first_share(layers[path], checks[path]) for checks in settings]
            measured = [times[path] for times in stopping]
            found[path] = LayerTime.fit(dense[path], shares, [s[path] for s in survivors], measured)
    if not found:
        raise ConfigError(f"the native kernels run no terminating layer of {type(net).__name__}: nothing can be timed")
    return found


def measure_layers(
    net: nn.Module, images: Tensor, settings: Sequence[Checks], batch_size: int
) -> list[dict[str, float]]:
    """Milliseconds an image of each of the engine's operations, by the paths in `net`, for each setting of the checks.

    One thread each, see `fastest_times`.
    """
    if extension() is None:
        raise ConfigError("layers are timed with the native kernels, which were not built when tapernet was installed "
                          "(that needs a C++ compiler)")  # fmt: skip
    prefix, budget = ("model.", net.budget) if isinstance(net, TaperedNet) else ("", 1.0)
    batches = torch.split(images, batch_size)
    engines = []
    for checks in settings:
        with checks_set(net, checks):
            engines.append(compile(net, images[:1]))
    per_image = 1e3 / len(images)
    return [
        {prefix + name: seconds * per_image for name, seconds in found.items()}
        for found in fastest_times(engines, batches, budget)
    ]


def first_share(layer: TerminatingConv2d, checks: Sequence[Check]) -> float:
    """The share of its terms that a layer adds before its first check, on average over the filters."""
    positions = checks[0].positions(layer.terms, layer.terms, layer.out_channels)
    return sum(positions) / len(positions) / layer.terms


@contextmanager
def _any_threshold(net: nn.Module) -> Iterator[None]:
    """The network with checks as they come inside the block: the gated gradient would refuse some of rounded sums.

    Times depend on no gradient; another one with the ReLU in the layer leaves what it computes as it is.
    """
    gated = [layer for layer in terminating_layers(net).values() if layer.options.gradient == "gated"]
    before = [layer.options for layer in gated]
    try:
        for layer in gated:
            layer.options = replace(layer.options, gradient="straight-through")
        yield
    finally:
        for layer, options in zip(gated, before, strict=True):
            layer.options = options


def _survivors(net: nn.Module, images: Tensor, checks: Checks) -> dict[str, float]:
    """Of each layer, the share of its outputs that no check stops."""
    with checks_set(net, checks):
        report = count_termination(net, images)
    positive = ("true positive", "false positive")
    return {
        layer.path: sum(layer.situations[name].count for name in positive) / layer.outputs for layer in report.layers
    }


def _moved(check: Check, threshold: float | None) -> Check:
    return check if threshold is None else replace(check, threshold=threshold)
