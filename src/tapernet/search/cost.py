"""What a choice of widths costs: exact MACs, or milliseconds foretold from a table of measured layers."""

from collections.abc import Callable

import numpy as np
import torch

from tapernet.errors import ConfigError
from tapernet.measure.layer_latency import LatencyTable, Sample
from tapernet.measure.macs import layer_macs
from tapernet.nn.net import TaperedNet
from tapernet.nn.widths import Kept, LayerSides, layer_sides

Cost = Callable[[Kept], float]
"""From kept channels of each group to a cost; of two choices, the one with more channels never costs less."""


Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


class MacCost:
    """MACs of one image, products with a weight: what `tapernet.total_macs` counts, without running the network.

    Args:
        net: the network; it is run once, at budget 1.0.
    """

    def __init__(self, net: TaperedNet) -> None:
        with net.at(1.0):
            full = net.kept_channels()
            counts = {path.removeprefix("model."): m.usual for path, m in layer_macs(net, _image(net)).items()}
        sides = layer_sides(net)
        # What a layer does for each product of its widths; a whole number, because every term is counted once.
        self._units = [(side, counts[path] // _size(side, full)) for path, side in sides.items() if path in counts]
        self._rest = sum(macs for path, macs in counts.items() if path not in sides)

    def __call__(self, kept: Kept) -> float:
        """MACs at these widths."""
        return self._rest + sum(unit * _size(side, kept) for side, unit in self._units)


class LatencyCost:
    """Milliseconds of one image, the sum over the layers of t0 + t1 in + t2 out + t3 in out with coefficients >= 0.

    The coefficients are those of least relative error on the layer's samples, so that a small width counts as much as
    a large one.

    Args:
        net: the network.
        table: its measured layers.

    Raises:
        ConfigError: the table is of a network with other layers.
    """

    def __init__(self, net: TaperedNet, table: LatencyTable) -> None:
        sides = layer_sides(net)
        if sides.keys() != table.layers.keys():
            other = sorted(sides.keys() ^ table.layers.keys())
            raise ConfigError(f"the table of latencies is of another network: they differ in {', '.join(other)}")
        self._layers = [(side, _fitted(table.layers[path])) for path, side in sides.items()]

    def __call__(self, kept: Kept) -> float:
        """Milliseconds at these widths, as foretold."""
        return sum(
            float(_features(side.inputs.features(kept), side.outputs.features(kept)) @ coefficients)
            for side, coefficients in self._layers
        )


def _image(net: TaperedNet) -> torch.Tensor:
    return torch.zeros(1, *net.input_shape, device=next(net.parameters()).device)


def _size(side: LayerSides, kept: Kept) -> int:
    """The number that a layer's MACs are a multiple of."""
    return side.outputs.features(kept) * (side.inputs.features(kept) if side.mixes else 1)


def _features(inputs: int, outputs: int) -> Vector:
    return np.array([1.0, inputs, outputs, inputs * outputs])


def _fitted(samples: tuple[Sample, ...]) -> Vector:
    from sklearn.linear_model import LinearRegression

    rows = np.stack([_features(s.inputs, s.outputs) / s.milliseconds for s in samples])
    scale = rows.max(0)  # widths and their products differ by orders of magnitude
    fit = LinearRegression(positive=True, fit_intercept=False).fit(rows / scale, np.ones(len(samples)))
    found: Vector = np.asarray(fit.coef_, np.float64) / scale
    return found
