"""Timings that depend on nothing but the network, in place of the machine's."""

from collections.abc import Callable, Sequence

import pytest
from torch import Tensor, nn

from tapernet.measure.termination import count_termination
from tapernet.nn.terminating import terminating_layers
from tapernet.placement import layer_time
from tapernet.placement.rerun import Checks

TimeOf = Callable[[str, float | None, float], float]
"""Milliseconds of a layer: from its path, the share of its check or None, and the share of outputs that survive it."""


def usual(path: str, share: float | None, survivors: float) -> float:
    """What a large layer takes: partial sums as slow as dense ones, full sums slower."""
    return 1.0 if share is None else 0.03 + share + 1.35 * survivors


@pytest.fixture
def fake_times(monkeypatch: pytest.MonkeyPatch) -> Callable[[TimeOf], None]:
    """Sets what layers take."""

    def set_times(time_of: TimeOf) -> None:
        def measure(net: nn.Module, images: Tensor, settings: Sequence[Checks], _: int) -> list[dict[str, float]]:
            return [measured(net, images, checks) for checks in settings]

        def measured(net: nn.Module, images: Tensor, checks: Checks) -> dict[str, float]:
            times = {}
            with layer_time.checks_set(net, checks):
                for layer in count_termination(net, images).layers:
                    stopped = sum(layer.situations[name].count for name in ("true negative", "false negative"))
                    own = terminating_layers(net)[layer.path].checks
                    share = int(layer.terms * own[0].share) / layer.terms if own else None
                    times[layer.path] = time_of(layer.path, share, 1 - stopped / layer.outputs)
            return times

        monkeypatch.setattr(layer_time, "measure_layers", measure)

    return set_times


@pytest.fixture
def usual_times(fake_times: Callable[[TimeOf], None]) -> None:
    """All layers take what large ones do."""
    fake_times(usual)
