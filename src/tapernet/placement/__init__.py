"""Where a terminating network looks at its partial sums. A method is one file here whose function is registered."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tapernet.checks import check_network, check_number, check_scores
from tapernet.errors import ConfigError
from tapernet.measure.inputs import Labelled, images_and_labels
from tapernet.measure.termination import measure_inputs
from tapernet.nn.order import EXACT
from tapernet.nn.terminating import terminating_layers
from tapernet.placement.rerun import Checks
from tapernet.registry import Registry, unknown

Method = Callable[..., "Placement"]
MEASURED = 1000
"""Images on which the size of inputs is measured for the order "expected"."""
PLACEMENTS: Registry[Method] = Registry("placement")
"""From network, images (n, channels, height, width), labels (n,), tolerance and the method's own options."""


@dataclass(frozen=True)
class Placement:
    """What a method did.

    Args:
        checks: of each terminating layer, by path.
        accuracy_before: share of the images that the network without checks gets right, in [0, 1].
        accuracy: the same with the checks.
        trials: sets of checks that were tried on the images.
    """

    checks: Checks
    accuracy_before: float
    accuracy: float
    trials: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        checks = {path: [check.as_dict() for check in checks] for path, checks in self.checks.items()}
        return {
            "checks": checks, "accuracy_before": self.accuracy_before, "accuracy": self.accuracy, "trials": self.trials,
        }  # fmt: skip


def place_checks(
    net: nn.Module, data: Labelled, *, tolerance: float, method: str = "greedy-paper", **options: Any
) -> Placement:
    """Sets the checks of `net` so that its accuracy on `data` drops by less than `tolerance`.

    Args:
        net: a network from `tapernet.terminate`, changed in place; checks that it has are replaced. One with a dial is
            taken at the budget that is set.
        data: training data: a data set, or images and labels.
        tolerance: e_t, the accuracy drop against the network without checks that must not be reached, in [0, 1].
        method: one of `PLACEMENTS`.
        options: the method's own.

    The order "expected" has the size of inputs measured on the first images, if `measure_inputs` has not done so.

    Raises:
        ConfigError: a tolerance outside [0, 1]; an unknown method or option; a network without terminating layers, or
            in the exact order, which stops without checks; or one that does not run on the images.
        DataError: no images, or not as many labels; scores of fewer classes than the labels name.
    """
    place = PLACEMENTS[method]
    known = [p.name for p in inspect.signature(place).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise ConfigError(unknown(f"option of {method}", name, known))
    check_number("the tolerance", tolerance, 0, 1)
    images, labels = images_and_labels(data)
    check_network(net, images.dtype)
    layers = terminating_layers(net).values()
    if not layers:
        raise ConfigError(f"{type(net).__name__} has no terminating layer: call terminate(model, example) first")
    if any(layer.options.order == EXACT for layer in layers):
        raise ConfigError("a network in the exact order stops by itself: there is nothing to place")
    before = [(layer.options, layer.checks) for layer in layers]
    try:
        for layer in layers:
            layer.set_checks([])
        check_scores(net, images, int(labels.max()) + 1, spare=True)
        if any(layer.options.order == "expected" and layer.input_mean.isnan().any() for layer in layers):
            measure_inputs(net, images[:MEASURED])
        return place(net, images, labels, tolerance, **options)
    except BaseException:
        for layer, (options_before, checks) in zip(layers, before, strict=True):
            layer.options = options_before
            layer.set_checks(checks)
        raise


def least_right(before: int, images: int, tolerance: float) -> int:
    """The fewest right answers with which the accuracy drop is below the tolerance.

    Args:
        before: right answers of the network without checks.
        images: answers in all.
        tolerance: as a share of the images.
    """
    least = max(0, before - math.floor(tolerance * images) - 1)
    # The comparison itself is the one that the algorithm makes, rounding included.
    while not (before - least) / images < tolerance:
        least += 1
    return least


def spread_sample(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` images at equal distances, or all if there are not more."""
    if len(images) <= count:
        return images, labels
    index = [i * len(images) // count for i in range(count)]
    return images[index], labels[index]


from tapernet.placement import greedy, greedy_paper, per_filter, rounded, timed  # noqa: E402, F401 (each file registers itself)
