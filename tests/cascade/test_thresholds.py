import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapernet import ImageData, TaperedNet, calibrate, calibrate_cascade, load, load_data, taper, total_macs, zoo
from tapernet.cascade import thresholds
from tapernet.cascade.thresholds import _Images
from tapernet.errors import ConfigError, DataError
from tapernet.zoo.trained import WEIGHTS

TRAIN, VAL = load_data("digits").train.split(300, seed=0)


@pytest.fixture(scope="module")
def net() -> TaperedNet:
    loaded = load(WEIGHTS / "mlp-digits.safetensors")
    assert isinstance(loaded, TaperedNet)
    return loaded


def by_hand(
    sure: torch.Tensor, right: torch.Tensor, macs: list[int], thresholds: tuple[float, ...]
) -> tuple[int, float]:
    """Right answers and average MACs, an image at a time."""
    answers, total = 0, 0
    for n in range(sure.shape[1]):
        for stage in range(len(macs)):
            total += macs[stage]
            if stage == len(macs) - 1 or sure[stage, n] >= thresholds[stage]:
                answers += int(right[stage, n])
                break
    return answers, total / sure.shape[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 3), st.integers(1, 9), st.integers(0, 10**6), st.integers(0, 3))
def test_no_thresholds_are_better_than_those_found(stages: int, images: int, seed: int, loss: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few levels, so that several images are equally sure.
    sure = torch.randint(0, 6, (stages - 1, images), generator=generator).double() / 5
    right = torch.randint(0, 2, (stages, images), generator=generator).bool()
    macs = [1, 3, 10][:stages]
    needed = int(right[-1].sum()) - loss
    levels = [-0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1]
    best = min(
        average
        for tried in itertools.product(levels, repeat=stages - 1)
        for answers, average in [by_hand(sure, right, macs, tried)]
        if answers >= needed
    )
    (found,) = _Images(sure, right, macs, needed).best()
    answers, average = by_hand(sure, right, macs, found)
    assert answers >= needed
    assert average == pytest.approx(best)


@settings(max_examples=10, deadline=None)
@given(
    max_loss=st.sampled_from([0, 0.003, 0.01, 0.03, 0.2]),
    budgets=st.sampled_from([(0.1, 1.0), (0.2, 0.5, 1.0), (0.1, 0.2, 0.4, 0.7), (0.1, 0.3, 0.5, 0.7, 1.0)]),
    confidence=st.sampled_from(["probability", "margin"]),
)
def test_the_bound_holds_on_validation_data(
    max_loss: float, budgets: tuple[float, ...], confidence: str, net: TaperedNet
) -> None:
    cascade = calibrate_cascade(net, VAL, budgets, max_loss=max_loss, confidence=confidence)
    report = cascade.evaluate(VAL, latency=False)
    assert report.accuracy >= report.full_accuracy - max_loss - 1e-9
    assert report.macs <= report.full_macs
    assert cascade.budgets[-1] == budgets[-1]
    assert set(cascade.budgets) <= set(budgets)
    assert cascade.confidence == confidence


def test_a_larger_loss_never_costs_more_macs_and_saves_at_last(net: TaperedNet) -> None:
    macs = [
        calibrate_cascade(net, VAL, max_loss=loss).evaluate(VAL, latency=False).macs for loss in (0, 0.01, 0.05, 0.5)
    ]
    assert macs == sorted(macs, reverse=True)
    with net.at(0.2):
        assert macs[-1] == total_macs(net, VAL.as_float()[0]).usual  # half the images may be wrong: none climbs
    with net.at(1.0):
        assert macs[1] < 0.8 * total_macs(net, VAL.as_float()[0]).usual


def test_stages_of_no_use_are_left_out(net: TaperedNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        right = torch.ones(3, 300).bool()
        right[0] = False  # the smallest budget is sure, but never right
        return torch.linspace(0.1, 0.9, 300).double().expand(3, -1), right

    monkeypatch.setattr(thresholds, "_measure", measured)
    assert calibrate_cascade(net, VAL, (0.1, 0.5, 1.0), max_loss=0).budgets == (0.5, 1.0)
    assert calibrate_cascade(net, VAL, (0.1, 1.0), max_loss=0).budgets == (1.0,)


def test_the_network_is_left_as_it_was(net: TaperedNet) -> None:
    net.train()
    net.budget = 0.4
    calibrate_cascade(net, VAL)
    assert net.training
    assert net.budget == 0.4
    assert "cascade" not in net.options
    net.eval()
    net.budget = 1.0


def test_a_network_with_batch_norm_needs_statistics_for_the_stages() -> None:
    net = taper(zoo.create("resnet", input_shape=[1, 8, 8], depth=8), VAL.as_float()[:1])
    calibrate(net, [TRAIN.as_float()[:100]], [1.0])
    with pytest.raises(ConfigError, match=r"no batch-norm statistics for budget 0\.2"):
        calibrate_cascade(net, VAL)
    calibrate(net, [TRAIN.as_float()[:100]], [0.2, 0.5])
    assert calibrate_cascade(net, VAL, max_loss=0.9).budgets[0] == 0.2


@pytest.mark.parametrize(
    ("budgets", "options", "message"),
    [
        ((1.0,), {}, "between at least two budgets, not 1"),
        ((1.0, 0.5), {}, "grow from stage to stage"),
        ((0.5, 1.0), {"max_loss": -0.1}, r"max_loss is a share in \[0, 1\), not -0.1"),
        ((0.5, 1.0), {"max_loss": 1}, "max_loss is a share"),
        ((0.5, 1.0), {"max_loss": float("nan")}, "max_loss is a share"),
        ((0.5, 1.0), {"confidence": "entropy"}, "unknown confidence 'entropy'"),
    ],
)
def test_bad_arguments_are_refused(
    budgets: tuple[float, ...], options: dict[str, object], message: str, net: TaperedNet
) -> None:
    with pytest.raises(ConfigError, match=message):
        calibrate_cascade(net, VAL, budgets, **options)  # type: ignore[arg-type]


def test_images_that_do_not_fit_are_refused(net: TaperedNet) -> None:
    wrong = ImageData(torch.zeros(2, 1, 5, 5), torch.tensor([0, 1]), VAL.class_names)
    with pytest.raises(DataError, match=r"\(1, 5, 5\), but the network takes \(1, 8, 8\)"):
        calibrate_cascade(net, wrong)
