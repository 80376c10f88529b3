"""Checks placed one by one, each where it saves the most milliseconds on this machine per point of accuracy lost."""

from collections.abc import Sequence

from torch import Tensor, nn

from tapernet.errors import ConfigError
from tapernet.nn.check import Check
from tapernet.nn.terminating import Outcome, TerminatingConv2d, terminating_layers
from tapernet.placement import PLACEMENTS, Placement
from tapernet.placement.greedy import SHARES, place_greedily, set_bias_first, single_checks
from tapernet.placement.layer_time import ALWAYS, NEVER, LayerTime, first_share, fit_layer_times
from tapernet.placement.rerun import GIGABYTE, Checks, Cost

NOISE = 0.005
"""Share of the time by which models that are fitted to timings may well be wrong."""


@PLACEMENTS.register("timed")
def timed(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    tolerance: float,
    *,
    shares: Sequence[float] = SHARES,
    thresholds: Sequence[float] = (0.0,),
    bias_first: bool | None = None,
    timed_batch: int = 1,
    foreseen: float = 1.0,
    batch_size: int | None = None,
    memory: int = 4 * GIGABYTE,
    sample: int = 2500,
) -> Placement:
    """As "greedy", with milliseconds in place of MACs: those of the engine's kernels, dense or stopping early.

    The kernels are timed once, and a linear model of each layer's time is fitted; trials then count survivors. A check
    that the layer is not faster with is never set, and one that no longer pays after other steps may be taken out. So
    the outcome depends on the machine, and a little on what else it does.

    Args:
        net: with no checks set, on the CPU.
        images: standardised, shape (n, channels, height, width).
        labels: shape (n,).
        tolerance: e_t.
        shares: positions to choose from, as shares of a filter's terms.
        thresholds: to choose from, with every share.
        bias_first: whether partial sums include the bias; None leaves it as the network has it.
        timed_batch: images in a call of the engine that is timed.
        foreseen: share of the survivors that is counted, in (0, 1]. Below 1 it sets checks that pay only
            after training with a MAC penalty, which lowers the survivors.
        batch_size: images run at once; by default at most 100, and fewer for large activations.
        memory: bytes of activations that may be kept.
        sample: images on which steps are chosen.

    Raises:
        ConfigError: the kernels were not built, or run none of the layers; no shares or thresholds; a batch below 1;
            a foreseen share outside (0, 1].
    """
    if not shares or not thresholds:
        raise ConfigError("there is no check to choose from: give one share and one threshold at least")
    if not 0 < foreseen <= 1:
        raise ConfigError(f"foreseen is a share in (0, 1], not {foreseen!r}")
    set_bias_first(net, bias_first)
    layers = terminating_layers(net)
    checks = single_checks(shares, thresholds)
    to_time = single_checks(sorted({min(shares), max(shares)}), (NEVER, *thresholds, ALWAYS))
    settings: list[Checks] = [dict.fromkeys(layers, check) for check in to_time]
    times = fit_layer_times(net, images, settings, batch_size=timed_batch)

    def useful(path: str) -> list[tuple[Check, ...]]:
        """Without checks, and with each check that would pay if nothing survived it."""
        if path not in times:
            return []
        return [(), *(c for c in checks if times[path].stopping(first_share(layers[path], c), 0) < times[path].dense)]

    return place_greedily(
        net, images, labels, tolerance, {path: useful(path) for path in layers}, milliseconds(layers, times, foreseen),
        batch_size=batch_size, memory=memory, sample=sample, least=NOISE,
    )  # fmt: skip


def milliseconds(layers: dict[str, TerminatingConv2d], times: dict[str, LayerTime], foreseen: float = 1.0) -> Cost:
    """What a call of a layer takes by its model, with a share of its survivors; nothing for a layer that has none."""

    def cost(path: str, outcome: Outcome) -> float:
        if path not in times:
            return 0.0
        layer, images = layers[path], len(outcome.stops)
        if not layer.checks:
            return images * times[path].dense
        survivors = foreseen * int((~outcome.stopped).sum()) / outcome.stops.numel()
        return images * times[path].stopping(first_share(layer, layer.checks), survivors)

    return cost
