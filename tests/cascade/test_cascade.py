import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tapernet import Cascade, ImageData, TaperedNet, load, load_data, save, taper, total_macs, zoo
from tapernet.cascade import CONFIDENCES
from tapernet.cascade.thresholds import _Images
from tapernet.errors import ConfigError, DataError
from tapernet.files import read_tensors, write_tensors
from tapernet.saving import KIND, VERSION
from tapernet.zoo.trained import WEIGHTS

BUDGETS = (0.1, 0.3, 1.0)
DATA = load_data("digits").test.take(range(120))
X = DATA.as_float()


@pytest.fixture(scope="module")
def net() -> TaperedNet:
    loaded = load(WEIGHTS / "mlp-digits.safetensors")
    assert isinstance(loaded, TaperedNet)
    return loaded


def alone(net: TaperedNet, budget: object, x: Tensor = X) -> Tensor:
    with net.at(budget), torch.no_grad():  # type: ignore[arg-type]
        found: Tensor = net(x)
    return found


def macs_of(net: TaperedNet) -> list[int]:
    found = []
    for budget in BUDGETS:
        with net.at(budget):
            found.append(total_macs(net, X[0]).usual)
    return found


def slowly(net: TaperedNet, image: Tensor, thresholds: tuple[float, ...], confidence: str) -> tuple[Tensor, int]:
    """One image by the definition."""
    for stage, budget in enumerate(BUDGETS):
        scores = alone(net, budget, image[None])[0]
        p = sorted((scores.double().exp() / scores.double().exp().sum()).tolist(), reverse=True)
        sure = p[0] if confidence == "probability" else p[0] - p[1]
        if stage == len(BUDGETS) - 1 or sure >= thresholds[stage]:
            return scores, stage
    raise AssertionError


@settings(max_examples=10, deadline=None)
@given(
    thresholds=st.tuples(st.floats(0.2, 0.9), st.floats(0.2, 0.9)),
    confidence=st.sampled_from(["probability", "margin"]),
)
def test_each_image_is_answered_where_a_loop_says(
    thresholds: tuple[float, float], confidence: str, net: TaperedNet
) -> None:
    cascade = Cascade(net, BUDGETS, thresholds, confidence)
    scores, stages = cascade.run(X)
    slow = [slowly(net, image, thresholds, confidence) for image in X]
    assert stages.tolist() == [stage for _, stage in slow]
    torch.testing.assert_close(scores, torch.stack([s for s, _ in slow]))
    torch.testing.assert_close(cascade(X), scores)
    report = cascade.evaluate(DATA, latency=False, batch_size=50)
    macs = macs_of(net)
    assert report.macs == pytest.approx(sum(sum(macs[: stage + 1]) for _, stage in slow) / len(DATA))
    assert report.accuracy == sum(int(s.argmax()) == y for (s, _), y in zip(slow, DATA.labels, strict=True)) / 120
    assert report.shares == tuple(sum(stage == i for _, stage in slow) / 120 for i in range(3))
    assert report.full_accuracy == int((alone(net, 1.0).argmax(1) == DATA.labels).sum()) / 120


def test_at_thresholds_of_0_the_smallest_answers_and_above_1_the_largest(net: TaperedNet) -> None:
    macs = macs_of(net)
    for thresholds, budget, done in (
        ((0, 0), 0.1, macs[0]),
        ((1.01, 1.01), 1.0, sum(macs)),
        ((1.01, 0), 0.3, sum(macs[:2])),
    ):
        cascade = Cascade(net, BUDGETS, thresholds)
        assert torch.equal(cascade(X), alone(net, budget))
        report = cascade.evaluate(DATA, latency=False)
        assert report.macs == done
        assert report.full_macs == macs[2]
        assert report.shares == tuple(float(b == budget) for b in BUDGETS)


def test_a_larger_budget_runs_the_images_that_climb_and_no_others(net: TaperedNet) -> None:
    some, none = Cascade(net, BUDGETS, (0.5, 0.6)), Cascade(net, BUDGETS, (0, 0))
    ran: list[tuple[object, int]] = []
    handle = net.register_forward_pre_hook(lambda m, x: ran.append((m.budget, len(x[0]))))
    try:
        stages = some.run(X)[1]
        reached = [int((stages >= i).sum()) for i in range(3)]
        assert ran == list(zip(BUDGETS, reached, strict=True))
        assert 120 > reached[1] > reached[2] > 0
        ran.clear()
        none(X)
        assert ran == [(0.1, 120)]
    finally:
        handle.remove()


def test_the_network_is_left_as_it_was(net: TaperedNet) -> None:
    net.train()
    net.budget = 0.4
    cascade = Cascade(net, BUDGETS, (0.5, 0.6))
    scores = cascade(X)
    assert not scores.requires_grad
    assert net.training
    assert net.budget == 0.4
    net.eval()
    net.budget = 1.0
    assert torch.equal(cascade(X), scores)


def test_no_image_and_one_image(net: TaperedNet) -> None:
    cascade = Cascade(net, BUDGETS, (0.5, 0.6))
    assert cascade(X[:0]).shape == (0, 10)
    torch.testing.assert_close(cascade(X[3:4])[0], cascade(X)[3])


def test_times_are_measured_beside_the_largest_budgets(net: TaperedNet) -> None:
    report = Cascade(net, BUDGETS, (0.5, 0.6)).evaluate(DATA.take(range(70)))
    assert report.latency is not None
    assert report.latency.batch == 64
    for part in ("single", "full_single", "batched", "full_batched"):
        time = getattr(report.latency, part)
        assert 0 < time.low <= time.median <= time.high
    assert "one by one" in report.summary()
    assert report.table().row_count == 3


@pytest.mark.parametrize("confidence", list(CONFIDENCES))
def test_every_confidence_lies_between_0_and_1_and_grows_with_the_scores(confidence: str) -> None:
    scores = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 1], [50, 0, 0]], dtype=torch.float64)
    found = CONFIDENCES[confidence](scores)
    assert found.shape == (4,)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert bool((found.diff() > 0).all())
    # Adding the same to all scores, and another order of the classes, change nothing.
    torch.testing.assert_close(CONFIDENCES[confidence](scores.flip(1) + 7), found)


def test_confidences_by_hand() -> None:
    scores = torch.tensor([[0.7, 0.2, 0.1]]).log()
    assert float(CONFIDENCES["probability"](scores)) == pytest.approx(0.7)
    assert float(CONFIDENCES["margin"](scores)) == pytest.approx(0.5)


def test_a_cascade_is_saved_with_its_network(net: TaperedNet, tmp_path: Path) -> None:
    cascade = Cascade(net, BUDGETS, (0.5, 0.6), "margin")
    cascade.store()
    try:
        save(net, tmp_path / "net")
    finally:
        del net.options["cascade"]
    again = load(tmp_path / "net")
    assert isinstance(again, TaperedNet)
    restored = Cascade.of(again)
    assert (restored.budgets, restored.thresholds, restored.confidence) == (BUDGETS, (0.5, 0.6), "margin")
    assert torch.equal(restored(X), cascade(X))
    # What is loaded is saved alike.
    save(again, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "net").read_bytes()


def test_a_file_from_before_cascades_is_read(net: TaperedNet, tmp_path: Path) -> None:
    save(net, tmp_path / "net")
    tensors, header = read_tensors(tmp_path / "net", kind=KIND, version=VERSION)
    del header["cascade"]
    write_tensors(tmp_path / "net", tensors, header)
    again = load(tmp_path / "net")
    assert isinstance(again, TaperedNet)
    with pytest.raises(ConfigError, match="has no cascade"):
        Cascade.of(again)


@pytest.mark.parametrize("kept", [{"budgets": [1.0]}, {"budgets": [1.0], "thresholds": [], "confidense": "margin"}])
def test_what_is_no_cascade_is_refused(kept: dict[str, object], tmp_path: Path) -> None:
    net = taper(zoo.create("mlp"), torch.zeros(1, 1, 28, 28))
    net.options["cascade"] = kept
    with pytest.raises(ConfigError, match="is not a cascade"):
        Cascade.of(net)


@pytest.mark.parametrize(
    ("budgets", "thresholds", "confidence", "message"),
    [
        ((), (), "margin", "at least one budget"),
        ((0.1, 1.0), (), "margin", "2 budgets have 1 thresholds between them, not 0"),
        ((0.1, 1.0), (0.5, 0.5), "margin", "not 2"),
        ((1.0, 0.1), (0.5,), "margin", "grow from stage to stage"),
        ((0.5, 0.5), (0.5,), "margin", "grow from stage to stage"),
        ((0.1, 2), (0.5,), "margin", "a budget lies in"),
        (("fast", 1.0), (0.5,), "margin", "unknown named budget 'fast'"),
        ((0.1, 1.0), (-0.1,), "margin", "finite and not negative"),
        ((0.1, 1.0), (float("nan"),), "margin", "finite and not negative"),
        ((0.1, 1.0), (0.5,), "margins", r"unknown confidence 'margins' \(did you mean 'margin'\?\)"),
    ],
)
def test_bad_arguments_are_refused(
    budgets: tuple[float, ...], thresholds: tuple[float, ...], confidence: str, message: str, net: TaperedNet
) -> None:
    with pytest.raises(ConfigError, match=message):
        Cascade(net, budgets, thresholds, confidence)


def test_images_that_do_not_fit_are_refused(net: TaperedNet) -> None:
    wrong = ImageData(torch.zeros(2, 1, 5, 5), torch.tensor([0, 1]), DATA.class_names)
    with pytest.raises(DataError, match=r"\(1, 5, 5\), but the network takes \(1, 8, 8\)"):
        Cascade(net, BUDGETS, (0.5, 0.6)).evaluate(wrong)


def test_an_image_as_sure_as_the_threshold_is_answered(net: TaperedNet) -> None:
    sure = float(CONFIDENCES["probability"](alone(net, BUDGETS[0], X[:1]).double())[0])
    above = math.nextafter(sure, math.inf)
    for threshold, stage in ((sure, 0), (above, 1)):
        answered = Cascade(net, BUDGETS[:2], (threshold,)).run(X[:1])[1]
        assert answered.tolist() == [stage]
    images = _Images(torch.tensor([[sure]], dtype=torch.float64), torch.tensor([[True], [True]]), [1, 10], 0)
    assert (images.average((sure,)), images.average((above,))) == (1.0, 11.0)
