"""Checks of sums rounded to eight bits, which need no choice of a position."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.measure.accuracy import right_answers
from tapernet.measure.termination import observing
from tapernet.nn.check import BITS, Check
from tapernet.nn.mode import eval_mode
from tapernet.nn.terminating import Outcome, TerminatingConv2d, terminating_layers
from tapernet.placement import PLACEMENTS, Placement, least_right
from tapernet.placement.greedy import set_bias_first
from tapernet.placement.rerun import Checks

LEAST_PRODUCTS = 256
"""Of a filter: the sums of fewer cost no less than what they save."""


@PLACEMENTS.register("rounded")
def rounded(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    tolerance: float,
    *,
    least_products: int = LEAST_PRODUCTS,
    goes_on: float | None = None,
    batch_size: int = 100,
) -> Placement:
    """A check of the rounded sum, bias included, in every layer whose filters have many products.

    Not of the papers. Such checks hardly ever stop a positive output, so that nothing is chosen; should the drop not be
    tolerated all the same, layers lose theirs from the last one on. An engine that times its layers keeps those that
    pay.

    By default what is positive is computed in full. With `goes_on` only so large a share of a layer's outputs is, the
    largest ones, and the others keep the sum in eight bits: the layer's threshold is that quantile of its outputs.

    Args:
        net: with no checks set.
        images: standardised, shape (n, channels, height, width).
        labels: shape (n,).
        tolerance: e_t.
        least_products: of a filter, for its layer to be checked.
        goes_on: share of the outputs in [0, 1], measured on the first `batch_size` images; 0 leaves none to be computed
            in full. A layer of which fewer are positive has the threshold zero.
        batch_size: images run at once.

    Raises:
        ConfigError: a share outside [0, 1].
    """
    if goes_on is not None and not 0 <= goes_on <= 1:
        raise ConfigError(f"goes_on is a share in [0, 1], not {goes_on!r}")
    set_bias_first(net, True)
    thresholds = _thresholds(net, images[:batch_size], goes_on)
    before = _right(net, images, labels, batch_size)
    checked = [path for path, layer in terminating_layers(net).items() if layer.weight[0].numel() >= least_products]
    least, trials = least_right(before, len(labels), tolerance), 0
    while True:
        checks = _check(net, {path: thresholds[path] for path in checked})
        if not checked:
            return Placement(checks, before / len(labels), before / len(labels), trials)
        right, trials = _right(net, images, labels, batch_size), trials + 1
        if right >= least:
            return Placement(checks, before / len(labels), right / len(labels), trials)
        checked.pop()


def _thresholds(net: nn.Module, images: Tensor, goes_on: float | None) -> dict[str, float]:
    """Of each layer, by path, what its outputs must reach to be computed in full."""
    thresholds = dict.fromkeys(terminating_layers(net), 0.0)
    if goes_on is None:
        return thresholds

    def take(path: str, _: TerminatingConv2d, outcome: Outcome) -> None:
        outputs = outcome.full.flatten()
        if goes_on == 0:
            thresholds[path] = torch.finfo(outputs.dtype).max
            return
        stopping = max(1, round((1 - goes_on) * len(outputs)))
        thresholds[path] = max(0.0, outputs.kthvalue(stopping).values.item())

    with observing(net, take), eval_mode(net), torch.inference_mode():
        net(images)
    return thresholds


def _check(net: nn.Module, thresholds: Mapping[str, float]) -> Checks:
    """Checks these layers with these thresholds, and no others."""
    checks: Checks = {
        path: (Check(bits=BITS, threshold=thresholds[path]),) if path in thresholds else ()
        for path in terminating_layers(net)
    }
    for path, layer in terminating_layers(net).items():
        layer.set_checks(checks[path])
    return checks


def _right(net: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> int:
    """Right answers at the budget that is set."""
    with eval_mode(net), torch.inference_mode():
        return right_answers(net, images, labels, batch_size)
