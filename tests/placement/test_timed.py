"""Placement by time, with times that the tests set; one run with the machine's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tapernet import zoo
from tapernet.convert.taper import taper
from tapernet.convert.terminate import terminate
from tapernet.data import ImageData
from tapernet.engine import native
from tapernet.errors import ConfigError
from tapernet.experiment.methods import METHODS
from tapernet.measure.termination import count_termination
from tapernet.nn.check import Check
from tapernet.nn.terminating import terminating_layers
from tapernet.placement import layer_time, place_checks
from tapernet.placement.greedy import choose_steps
from tapernet.placement.layer_time import LayerTime, fit_layer_times, measure_layers, time_weights
from tapernet.placement.rerun import Rerun
from tapernet.placement.timed import milliseconds

Set = Callable[[Callable[[str, float | None, float], float]], None]
SHAPE = (3, 12, 12)
PATHS = ("conv1", "conv2", "conv3")
needs_kernels = pytest.mark.skipif(native.extension() is None, reason="the kernels were not built")


def problem(n: int = 80, dial: bool = False) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A network that gets all of its images right."""
    torch.manual_seed(1)
    images = torch.randn(n, *SHAPE)
    model = zoo.create("c10net", input_shape=SHAPE, classes=4, hidden=8).eval()
    net = terminate(taper(model, images[:1], profile="all-one").eval() if dial else model, images[:1])
    with torch.no_grad():
        return net, (images, net(images).argmax(1))


def placed(net: nn.Module) -> dict[str, float | None]:
    """The share of each layer's only check, None without one."""
    shares: dict[str, float | None] = {}
    for path, layer in terminating_layers(net).items():
        found = layer.checks[0].share if layer.checks else None
        assert not isinstance(found, tuple)
        shares[path] = found  # type: ignore[assignment]
    return shares


def linear(path: str, share: float | None, survivors: float) -> float:
    return 2.0 if share is None else 0.1 + 1.5 * share + 2.5 * survivors


# --- the model -------------------------------------------------------------------------------------------------------


def test_the_model_finds_a_plane() -> None:
    points = [(0.02, 0.9), (0.02, 0.1), (0.5, 0.3), (0.32, 0.6)]
    times = [0.7 + 3 * share + 5 * survivors for share, survivors in points]
    found = LayerTime.fit(4.0, [p[0] for p in points], [p[1] for p in points], times)
    assert (found.dense, found.start, found.per_share, found.per_survivor) == pytest.approx((4.0, 0.7, 3, 5))
    assert found.stopping(0.1, 0.5) == pytest.approx(0.7 + 0.3 + 2.5)


def test_one_share_tells_times_at_that_share() -> None:
    found = LayerTime.fit(4.0, [0.1] * 3, [1.0, 0.4, 0.0], [6.0, 3.0, 1.0])
    for survivors in (0.0, 0.5, 1.0):
        assert found.stopping(0.1, survivors) == pytest.approx(1 + 5 * survivors)


def test_each_layer_is_fitted_by_its_survivors(fake_times: Set) -> None:
    net, (images, _) = problem()
    fake_times(linear)
    settings = [
        dict.fromkeys(PATHS, (Check(share=share, threshold=threshold),))
        for share in (0.1, 0.4) for threshold in (-1e30, 0.0)
    ]  # fmt: skip
    before = {path: layer.checks for path, layer in terminating_layers(net).items()}
    for time in fit_layer_times(net, images, settings).values():
        assert time.dense == 2
        assert (time.start, time.per_share, time.per_survivor) == pytest.approx((0.1, 1.5, 2.5))
    assert {path: layer.checks for path, layer in terminating_layers(net).items()} == before


def test_a_layer_that_the_kernels_lack_has_no_model(fake_times: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = problem()
    fake_times(linear)
    measure = layer_time.measure_layers

    def without_conv2(*arguments: object) -> list[dict[str, float]]:
        return [{p: t for p, t in times.items() if p != "conv2"} for times in measure(*arguments)]  # type: ignore[arg-type]

    monkeypatch.setattr(layer_time, "measure_layers", without_conv2)
    place_checks(net, data, tolerance=0.5, method="timed", shares=(0.1,))
    assert placed(net)["conv2"] is None
    assert placed(net)["conv3"] is not None
    monkeypatch.setattr(layer_time, "measure_layers", lambda *a: [{"relu1": 1.0} for _ in measure(*a)])
    with pytest.raises(ConfigError, match="nothing can be timed"):
        place_checks(net, data, tolerance=0.5, method="timed")


# --- placement -------------------------------------------------------------------------------------------------------


def test_a_layer_that_does_not_get_faster_has_no_check(fake_times: Set) -> None:
    net, data = problem()
    fake_times(lambda path, *rest: linear(path, *rest) + (path == "conv1" and rest[0] is not None) * 2)
    place_checks(net, data, tolerance=0.9, method="timed")
    assert placed(net)["conv1"] is None
    assert None not in (placed(net)["conv2"], placed(net)["conv3"])


def test_the_first_step_saves_most_time_per_answer_lost(fake_times: Set) -> None:
    net, data = problem()
    factor = {"conv1": 1.0, "conv2": 3.0, "conv3": 0.5}
    shares, gains = (0.1, 0.3), {}
    for path in PATHS:
        for share in shares:
            with layer_time.checks_set(net, {path: (Check(share=share),)}), torch.no_grad():
                lost = int((net(data[0]).argmax(1) != data[1]).sum())
                report = count_termination(net, data)
            time = 0.0
            for layer in report.layers:
                stopped = sum(layer.situations[name].count for name in ("true negative", "false negative"))
                time += factor[layer.path] * linear("", share if layer.path == path else None,
                                                    1 - stopped / layer.outputs)  # fmt: skip
            gains[path, share] = (2.0 * 4.5 - time) / (lost + 1)
    best = max(gains, key=gains.__getitem__)
    assert gains[best] > 0
    layers = terminating_layers(net)
    times = {path: LayerTime(2 * f, 0.1 * f, 1.5 * f, 2.5 * f) for path, f in factor.items()}
    rerun = Rerun(net, *data, cost=milliseconds(layers, times))
    candidates = {path: [(Check(share=share),) for share in shares] for path in PATHS}
    steps, _ = choose_steps(rerun, candidates, 0.9)
    assert {path: checks for path, checks in steps[1].items() if checks} == {best[0]: (Check(share=best[1]),)}


def test_a_check_that_no_longer_pays_is_taken_out() -> None:
    net, data = problem()
    net.conv2.set_checks([Check(share=0.5)])
    layers = terminating_layers(net)
    times = dict.fromkeys(PATHS, LayerTime(dense=2.0, start=2.1, per_share=0.0, per_survivor=0.0))
    candidates = {path: [(), (Check(share=0.3),)] for path in PATHS}
    steps, _ = choose_steps(Rerun(net, *data, cost=milliseconds(layers, times)), candidates, 0.5)
    assert not any(steps[-1].values())


def test_a_step_that_saves_next_to_nothing_is_not_made(fake_times: Set) -> None:
    found = []
    for saved in (0.001, 0.1):
        net, data = problem()
        fake_times(lambda path, share, survivors: 1.0 if share is None else 1 - saved)  # noqa: B023 (used at once)
        place_checks(net, data, tolerance=0.9, method="timed", shares=(0.3,))
        found.append(placed(net))
    assert found == [dict.fromkeys(PATHS), dict.fromkeys(PATHS, 0.3)]


def test_checks_that_will_pay_are_set_where_fewer_survivors_are_foreseen(fake_times: Set) -> None:
    found = []
    for foreseen in (1.0, 0.2):
        net, data = problem()
        fake_times(lambda path, share, survivors: 1.0 if share is None else 0.4 + 2 * survivors)
        place_checks(net, data, tolerance=0.9, method="timed", shares=(0.3,), foreseen=foreseen)
        found.append(placed(net))
    assert found == [dict.fromkeys(PATHS), dict.fromkeys(PATHS, 0.3)]


@pytest.mark.parametrize("foreseen", [0, -0.5, 1.1, float("nan")])
def test_a_foreseen_share_that_is_none(foreseen: float, usual_times: None) -> None:
    net, data = problem(4)
    with pytest.raises(ConfigError, match="foreseen is a share"):
        place_checks(net, data, tolerance=0.2, method="timed", foreseen=foreseen)


def test_times_decide_alone(fake_times: Set) -> None:
    found = []
    for _ in range(2):
        net, data = problem()
        fake_times(linear)
        found.append(place_checks(net, data, tolerance=0.2, method="timed", bias_first=True, shares=(0.1, 0.3)))
        assert all(layer.options.bias_first for layer in terminating_layers(net).values())
    assert found[0] == found[1]


def test_an_experiment_may_place_by_time(fake_times: Set) -> None:
    images = torch.randn(30, *SHAPE)
    data = ImageData(images, torch.arange(30) % 4, tuple("abcd"))
    model = zoo.create("c10net", input_shape=SHAPE, classes=4, hidden=8)
    fake_times(linear)
    net = METHODS["terminate"](model, 1.0, data, placement="timed", shares=[0.1], thresholds=[0.0], bias_first=True)
    assert set(placed(net).values()) == {0.1}


def test_without_kernels_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = problem()
    monkeypatch.setattr(layer_time, "extension", lambda: None)
    with pytest.raises(ConfigError, match="were not built"):
        place_checks(net, data, tolerance=0.2, method="timed")


@pytest.mark.parametrize("options", [{"shares": ()}, {"thresholds": ()}], ids=str)
def test_no_checks_to_choose_from(options: dict[str, tuple[float, ...]]) -> None:
    net, data = problem(4)
    with pytest.raises(ConfigError, match="no check to choose from"):
        place_checks(net, data, tolerance=0.2, method="timed", **options)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True])
def test_a_batch_that_is_none(batch: float, usual_times: None) -> None:
    net, data = problem(4)
    with pytest.raises(ConfigError, match="whole number of images"):
        place_checks(net, data, tolerance=0.2, method="timed", timed_batch=batch)


@needs_kernels
@pytest.mark.parametrize("dial", [False, True])
@pytest.mark.parametrize("batch", [1, 32])
def test_the_machine_s_own_times(dial: bool, batch: int) -> None:
    net, data = problem(40, dial)
    if dial:
        net.budget = 0.5
    paths = list(terminating_layers(net))
    never, always = (dict.fromkeys(paths, (Check(share=0.5, threshold=threshold),)) for threshold in (-1e30, 1e30))
    times = measure_layers(net, data[0][:32], [{}, never, always], batch)
    assert all(set(paths) <= set(each) and min(each.values()) > 0 for each in times)
    placement = place_checks(net, data, tolerance=0.2, method="timed", timed_batch=batch)
    assert placement.accuracy_before - placement.accuracy < 0.2


# --- weights of the penalty ------------------------------------------------------------------------------------------


def test_a_layer_weighs_what_stopping_could_save(fake_times: Set) -> None:
    net, (images, _) = problem()
    net.conv2.set_checks([Check(share=0.2)])
    net.conv3.set_checks([Check(share=0.2)])
    fake_times(lambda path, *rest: linear(path, *rest) * {"conv2": 1, "conv3": 3}.get(path, 1))
    weights = time_weights(net, images)
    for path, factor in (("conv2", 1), ("conv3", 3)):
        share = int(net.get_submodule(path).terms * 0.2) / net.get_submodule(path).terms
        # Between no survivors and the dense kernel, which is faster than the full sums of all outputs.
        assert weights[path] == pytest.approx(factor * (2 - (0.1 + 1.5 * 0.2)) / (1 - share), rel=0.02)
    assert set(weights) == {"conv2", "conv3"}
    assert net.conv2.checks == (Check(share=0.2),)


def test_a_layer_that_cannot_be_faster_weighs_nothing(fake_times: Set) -> None:
    net, (images, _) = problem()
    net.conv1.set_checks([Check(share=0.2)])
    fake_times(lambda path, share, survivors: 1.0 if share is None else 1.1 + survivors)
    assert time_weights(net, images) == {"conv1": 0.0}


def test_weights_need_checks() -> None:
    net, (images, _) = problem()
    with pytest.raises(ConfigError, match="place_checks was not called, or found none"):
        time_weights(net, images)


@needs_kernels
def test_rounded_checks_are_timed_for_the_gated_gradient() -> None:
    model, images = zoo.create("c10net", input_shape=SHAPE), torch.rand(8, *SHAPE)
    net = terminate(model, images, gradient="gated", bias_first=True)
    net.conv2.set_checks([Check(bits=8)])
    assert set(time_weights(net, images)) == {"conv2"}
    assert net.conv2.options.gradient == "gated"
    assert net.conv2.checks == (Check(bits=8),)
