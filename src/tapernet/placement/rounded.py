"""Checks of sums rounded to eight bits, which need no choice of a position."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tapernet.measure.accuracy import right_answers
from tapernet.nn.check import BITS, Check
from tapernet.nn.mode import eval_mode
from tapernet.nn.terminating import terminating_layers
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
    batch_size: int = 100,
) -> Placement:
    """A check of the rounded sum, bias included, in every layer whose filters have many products.

    Not of the papers. Such checks hardly ever stop a positive output, so that nothing is chosen; should the drop not be
    tolerated all the same, layers lose theirs from the last one on. An engine that times its layers keeps those that
    pay.

    Args:
        net: with no checks set.
        images: standardised, shape (n, channels, height, width).
        labels: shape (n,).
        tolerance: e_t.
        least_products: of a filter, for its layer to be checked.
        batch_size: images run at once.
    """
    set_bias_first(net, True)
    before = _right(net, images, labels, batch_size)
    checked = [path for path, layer in terminating_layers(net).items() if layer.weight[0].numel() >= least_products]
    least, trials = least_right(before, len(labels), tolerance), 0
    while True:
        checks = _check(net, checked)
        if not checked:
            return Placement(checks, before / len(labels), before / len(labels), trials)
        right, trials = _right(net, images, labels, batch_size), trials + 1
        if right >= least:
            return Placement(checks, before / len(labels), right / len(labels), trials)
        checked.pop()


def _check(net: nn.Module, paths: Sequence[str]) -> Checks:
    """Checks these layers and no others."""
    checks: Checks = {path: (Check(bits=BITS),) if path in paths else () for path in terminating_layers(net)}
    for path, layer in terminating_layers(net).items():
        layer.set_checks(checks[path])
    return checks


def _right(net: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> int:
    """Right answers at the budget that is set."""
    with eval_mode(net), torch.inference_mode():
        return right_answers(net, images, labels, batch_size)
