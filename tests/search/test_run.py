import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tapernet import (
    TESLA,
    ImageData,
    Settings,
    TaperedNet,
    calibrate,
    fit,
    load,
    load_data,
    save,
    taper,
    total_macs,
    zoo,
)
from tapernet.errors import ConfigError, DataError
from tapernet.measure.latency import Latency
from tapernet.measure.layer_latency import LatencyTable, Sample
from tapernet.search import run, search_budget
from tapernet.zoo.mlp import mlp

SHARES = [i / 10 for i in range(1, 11)]
IMAGE = torch.zeros(1, 1, 8, 8)
TRAIN, VAL = load_data("digits").train.split(300, seed=0)


@pytest.fixture(scope="module")
def trained() -> TaperedNet:
    """Two channel groups, of 20 and 12 channels."""
    torch.manual_seed(0)
    net = taper(zoo.create("mlp", input_shape=[1, 8, 8], hidden=[20, 12]), IMAGE)
    fit(net, TRAIN, VAL, TESLA((1.0, 0.3), max_epochs=4), Settings(batch_size=32, lr=5e-3), progress=False)
    return net


def macs_of(net: TaperedNet, budget: object) -> int:
    with net.at(budget):  # type: ignore[arg-type]
        return total_macs(net, IMAGE).usual


def accuracy_of(net: TaperedNet, budget: object, data: ImageData = VAL) -> float:
    with net.at(budget), torch.no_grad():  # type: ignore[arg-type]
        return int((net.eval()(data.as_float()).argmax(1) == data.labels).sum()) / len(data)


@pytest.fixture(scope="module")
def brute(trained: TaperedNet) -> dict[tuple[float, float], tuple[int, float]]:
    """MACs and accuracy of every choice."""
    budgets = {(a, b): {"fc1": a, "fc2": b} for a, b in itertools.product(SHARES, SHARES)}
    return {pair: (macs_of(trained, budget), accuracy_of(trained, budget)) for pair, budget in budgets.items()}


@pytest.mark.parametrize("limit", [150, 300, 700, 1200, 1640])
def test_a_small_space_is_tried_whole(
    limit: int, trained: TaperedNet, brute: dict[tuple[float, float], tuple[int, float]]
) -> None:
    result = search_budget(trained, VAL, max_macs=limit, trials=200, held_back=0)
    allowed = {pair: accuracy for pair, (macs, accuracy) in brute.items() if macs <= limit}
    assert result.exhaustive
    assert result.found.accuracy >= max(allowed.values())
    # More than the grid only by the uniform budget, whose percent is finer.
    extra = result.uniform.budget["*"]
    pairs = itertools.product([*SHARES, extra], repeat=2)
    finer = [{"fc1": a, "fc2": b} for a, b in pairs if macs_of(trained, {"fc1": a, "fc2": b}) <= limit]
    assert result.found.accuracy == max(accuracy_of(trained, budget) for budget in finer)
    assert result.found.accuracy == accuracy_of(trained, result.found.budget)
    assert result.found.macs == macs_of(trained, result.found.budget) <= limit


@settings(max_examples=12, deadline=None)
@given(limit=st.integers(140, 1640), seed=st.integers(0, 5), trials=st.integers(1, 25))
def test_the_limit_always_holds_and_uniform_width_is_never_better(
    limit: int, seed: int, trials: int, trained: TaperedNet
) -> None:
    result = search_budget(trained, VAL, max_macs=limit, seed=seed, trials=trials, held_back=0)
    assert result.found.macs == macs_of(trained, result.found.budget) <= limit
    assert result.uniform.macs == macs_of(trained, result.uniform.budget) <= limit
    share = result.uniform.budget["*"]
    assert share == 1 or macs_of(trained, round(share + 0.01, 2)) > limit
    assert result.uniform.accuracy == accuracy_of(trained, share)
    assert result.found.accuracy >= result.uniform.accuracy
    assert result.tried <= max(trials, 1)
    assert result.within_limit
    assert result.beats_uniform == (result.found.accuracy > result.uniform.accuracy)


def test_a_few_trials_come_near_the_best_of_all(
    trained: TaperedNet, brute: dict[tuple[float, float], tuple[int, float]]
) -> None:
    limit = 800
    best = max(accuracy for macs, accuracy in brute.values() if macs <= limit)
    found = []
    for seed in range(3):
        result = search_budget(trained, VAL, max_macs=limit, trials=30, held_back=0, seed=seed)
        assert not result.exhaustive
        found.append(result.found.accuracy)
    assert max(found) >= best - 0.01
    assert min(found) >= best - 0.03


def test_a_known_optimum_of_many_layers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accuracy that is known in closed form, whose best choice is far from uniform width."""
    net = taper(mlp((1, 8, 8), 10, (10, 10, 10, 10, 10)), IMAGE)
    shares = [0.2, 0.4, 0.6, 0.8, 1.0]
    gains = [1, 8, 1, 8, 1]

    def value(kept: tuple[int, ...]) -> float:
        return sum(gain * math.log(k) for gain, k in zip(gains, kept, strict=True)) / 100

    def known(net: TaperedNet, images: object, labels: object, budgets: list[dict[str, float]]) -> list[float]:
        with net.at(budgets[0]):
            return [value(net.kept_channels())]

    monkeypatch.setattr(run, "accuracies", known)
    limit = macs_of(net, 0.5)
    uniform = value((5,) * 5)
    best = 0.0
    for kept in itertools.product([2, 4, 5, 6, 8, 10], repeat=5):
        widths = [64, *kept, 10]
        if sum(a * b for a, b in itertools.pairwise(widths)) <= limit:
            best = max(best, value(kept))
    result = search_budget(net, VAL, max_macs=limit, trials=400, held_back=0, shares=shares)
    assert not result.exhaustive
    assert result.uniform.accuracy == pytest.approx(uniform)
    assert result.found.accuracy >= uniform + 0.98 * (best - uniform)
    assert result.beats_uniform


def test_the_same_seed_gives_the_same_result_and_leaves_the_network_alone(trained: TaperedNet) -> None:
    net = copy.deepcopy(trained).train()
    net.budget = 0.4
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    first, again = (search_budget(net, VAL, max_macs=800, trials=12, seed=3) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert net.budget == 0.4
    assert net.budgets == {}
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    told: list[str] = []
    search_budget(net, VAL, max_macs=800, trials=12, seed=3, say=told.append)
    assert told


def test_what_was_held_back_takes_no_part(trained: TaperedNet) -> None:
    result = search_budget(trained, VAL, max_macs=800, trials=20, held_back=0.4, seed=7)
    seen, kept_back = VAL.split(0.4, 7)
    for candidate in (result.found, result.uniform):
        assert candidate.accuracy == accuracy_of(trained, candidate.budget, seen)
        assert candidate.confirmed == accuracy_of(trained, candidate.budget, kept_back)


def test_it_never_claims_to_beat_what_it_equals(trained: TaperedNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "accuracies", lambda *_: [0.5])
    net = copy.deepcopy(trained)
    result = search_budget(net, VAL, max_macs=800, trials=20, name="even")
    assert not result.beats_uniform
    assert result.best is result.uniform
    assert "none was shown to be better" in result.verdict()
    assert net.budgets["even"] == result.uniform.budget


def normed() -> TaperedNet:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 12),
        nn.BatchNorm1d(12),
    ]
    return taper(nn.Sequential(*layers, nn.ReLU(), nn.Linear(12, 10)), IMAGE)


def test_statistics_are_measured_for_every_choice_and_forgotten() -> None:
    net, train = normed(), TRAIN
    calibrate(net, [train.as_float()[:50]], [1.0, 0.5])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    result = search_budget(net, VAL, max_macs=600, train=train, trials=15, held_back=0)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    for candidate in (result.found, result.uniform):
        other = copy.deepcopy(net)
        calibrate(other, torch.split(train.as_float()[:512], 128), [candidate.budget])
        assert accuracy_of(other, candidate.budget) == candidate.accuracy


def test_the_best_is_named_with_its_statistics_and_saved(tmp_path: Path) -> None:
    net = taper(zoo.create("resnet", input_shape=[1, 8, 8], depth=8), IMAGE)
    data = VAL.take(range(60))
    images = data.as_float()
    before = set(net.state_dict())
    result = search_budget(net, data, max_macs=macs_of(net, 0.5), train=data, trials=6, name="fast")
    norms = len(net.batch_norms())
    assert len(set(net.state_dict()) - before) == 2 * norms  # one mean and one variance in each, of one budget
    save(net, tmp_path / "net")
    again = load(tmp_path / "net")
    assert again.budgets["fast"] == dict(result.best.budget)  # type: ignore[union-attr,operator,call-overload,index]
    with net.at("fast"), again.at("fast"), torch.no_grad():  # type: ignore[operator]
        assert torch.equal(net.eval()(images), again(images))


# Milliseconds are the products of a layer, divided by a hundred.
TABLE = LatencyTable({
    "fc1": tuple(Sample(64, o, 64 * o / 100) for o in range(2, 21, 3)),
    "fc2": tuple(Sample(i, o, i * o / 100) for i in range(2, 21, 3) for o in range(2, 13, 3)),
    "fc3": tuple(Sample(i, 10, i * 10 / 100) for i in range(2, 13, 3)),
})  # fmt: skip


def machine(slower: Callable[[int], float]) -> Callable[..., list[Latency]]:
    """Stands for a machine that takes so many milliseconds for so many MACs."""

    def spreads(net: nn.Module, *arguments: object, **options: object) -> list[Latency]:
        ms = slower(total_macs(net, IMAGE).usual)
        return [Latency(ms, ms * 0.9, ms * 1.1)]

    return spreads


def test_a_limit_of_time_is_kept_by_what_is_measured(trained: TaperedNet, monkeypatch: pytest.MonkeyPatch) -> None:
    for factor in (1.0, 1.2):
        monkeypatch.setattr(run, "spreads", machine(lambda macs, factor=factor: macs / 100 * factor))  # type: ignore[misc]
        result = search_budget(trained, VAL, max_ms=8.0, table=TABLE, trials=15)
        assert result.best.latency is not None
        assert result.best.latency.median <= 8.0
        assert result.best.macs <= 800 / factor + 1
        assert result.within_limit
        assert result.uniform.macs > 500  # the room is used


def test_a_limit_of_time_that_does_not_hold_is_owned_up_to(
    trained: TaperedNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "spreads", machine(lambda macs: 9.0))
    result = search_budget(trained, VAL, max_ms=8.0, table=TABLE, trials=5)
    assert not result.within_limit


def test_time_is_really_measured(trained: TaperedNet) -> None:
    result = search_budget(trained, VAL, max_ms=1000.0, trials=3)
    assert result.uniform.budget == {"*": 1.0}
    for candidate in (result.found, result.uniform):
        assert candidate.latency is not None
        assert 0 < candidate.latency.low <= candidate.latency.median <= candidate.latency.high < 1000
    assert result.within_limit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one limit: max_macs or max_ms"),
        ({"max_macs": 300, "max_ms": 1}, "give one limit"),
        ({"max_macs": 0}, "a limit is a number above 0, not 0"),
        ({"max_macs": float("nan")}, "a limit is a number above 0"),
        ({"max_ms": True}, "a limit is a number above 0"),
        ({"max_macs": 99}, "the limit 99 is below the smallest choice, 10% of every layer, which costs 140"),
        ({"max_ms": 0.1, "table": TABLE}, "the limit 0.1 is below the smallest choice"),
        ({"max_macs": 300, "trials": 0}, "trials is at least 1"),
        ({"max_macs": 300, "held_back": 1.0}, r"held_back is a share in \[0, 1\)"),
        ({"max_macs": 300, "shares": []}, "at least one budget"),
        ({"max_macs": 300, "shares": [0.5, 2]}, "a budget lies in"),
        ({"max_macs": 300, "name": "9"}, "starts with a letter"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, object], message: str, trained: TaperedNet) -> None:
    with pytest.raises(ConfigError, match=message):
        search_budget(trained, VAL, **options)  # type: ignore[arg-type]


def test_networks_that_cannot_be_searched_are_refused() -> None:
    several = taper(mlp((1, 8, 8), 10, (20, 12)), IMAGE, profile={0.5: "linear", 1.0: "harmonic"})
    with pytest.raises(ConfigError, match="several profiles"):
        search_budget(several, VAL, max_macs=800)
    with pytest.raises(ConfigError, match="batch-norm, whose statistics differ for every choice: give train"):
        search_budget(normed(), VAL, max_macs=600)


def test_images_that_do_not_fit_are_refused(trained: TaperedNet) -> None:
    wrong = ImageData(torch.zeros(9, 1, 5, 5), VAL.labels[:9], VAL.class_names)
    with pytest.raises(DataError, match=r"\(1, 5, 5\), but the network takes \(1, 8, 8\)"):
        search_budget(trained, wrong, max_macs=800)
