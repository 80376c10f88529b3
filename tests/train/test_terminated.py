"""Training networks whose convolutions stop early: the checks stay, and act in every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tapernet import Check, FineTune, ImageData, Settings, count_termination, fit, taper, terminate, zoo
from tapernet.errors import ConfigError
from tapernet.files import read_tensors, write_tensors
from tapernet.nn.terminating import Outcome, terminating_layers
from tapernet.train import loop
from tapernet.train.checkpoint import KIND, VERSION
from tapernet.train.loop import History, accuracies

SHAPE = (1, 8, 8)


def images(n: int, seed: int) -> ImageData:
    """Four classes: a bright quarter each, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    quarters = torch.zeros(4, *SHAPE)
    for i in range(4):
        quarters[i, 0, 4 * (i // 2) : 4 * (i // 2) + 4, 4 * (i % 2) : 4 * (i % 2) + 4] = 1
    return ImageData(quarters[labels] + 0.7 * torch.randn(n, *SHAPE, generator=generator), labels, tuple("abcd"))


TRAIN, VAL = images(160, 1), images(80, 2)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return zoo.create("c10net", input_shape=SHAPE, classes=4, hidden=8)


def with_checks(model: nn.Module, gradient: str) -> nn.Module:
    net = terminate(model, torch.zeros(1, *SHAPE), gradient=gradient)
    for share, layer in zip((0.3, 0.1, 0.05), terminating_layers(net).values(), strict=True):
        layer.set_checks([Check(share=share, threshold=-0.01)])
    return net


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "plain": lambda gradient="exact": with_checks(plain(), gradient),
    "with a dial": lambda gradient="exact": with_checks(taper(plain(), torch.zeros(1, *SHAPE)), gradient),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_checks_act_in_every_step_and_stay(name: str) -> None:
    net = NETWORKS[name]()
    checks = {path: layer.checks for path, layer in terminating_layers(net).items()}
    stopped: list[bool] = []

    def watch(outcome: Outcome) -> None:
        stopped.append(bool(outcome.stopped.any()))

    for layer in terminating_layers(net).values():
        layer.observer = watch
    budgets = (1.0,) if name == "plain" else (1.0, 0.5)
    fit(net, TRAIN, VAL, FineTune(budgets, epochs=8), Settings(batch_size=20, lr=3e-3), progress=False)
    assert sum(stopped) > 0.9 * len(stopped) > 8 * 8 * 3
    assert {path: layer.checks for path, layer in terminating_layers(net).items()} == checks
    assert accuracies(net, VAL.as_float(), VAL.labels, [1.0])[0] > 0.8


class Killed(Exception):
    """The run's process is gone."""


@pytest.mark.parametrize("how", ["by MACs", "by weights", "thresholds learn"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = how == "thresholds learn"
    paths = list(terminating_layers(NETWORKS[name]()))
    weights = dict(zip(paths, (0.1, 0.2, 1 / 3), strict=True)) if how == "by weights" else None
    recipe = FineTune(epochs=3, mac_penalty=0.2, penalty_weights=weights, threshold_scale=3.0 if learning else 0.0)
    settings = Settings(batch_size=40, optimizer="sgd", lr=0.05)
    gradient = "gated" if learning else "exact"
    unbroken = NETWORKS[name](gradient)
    fit(unbroken, TRAIN, VAL, recipe, settings, progress=False)
    calls = 0

    def stop_now_and_then(*arguments: object) -> list[float]:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            raise Killed
        return accuracies(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "accuracies", stop_now_and_then)
    while True:
        broken = NETWORKS[name](gradient)
        try:
            fit(broken, TRAIN, VAL, recipe, settings, run_dir=tmp_path, progress=False)
            break
        except Killed:
            pass
    assert calls > 3
    for a, b in zip(unbroken.state_dict().values(), broken.state_dict().values(), strict=True):
        assert torch.equal(a, b) or bool(a.isnan().all())
    pairs = zip(*(terminating_layers(net).values() for net in (unbroken, broken)), strict=True)
    for layer, other in pairs:
        assert layer.checks == other.checks
        assert (len(set(layer.checks[0].thresholds(layer.out_channels))) > 1) == learning


def test_after_an_error_thresholds_no_longer_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> list[float]:
        raise Killed

    net = NETWORKS["plain"]("gated")
    monkeypatch.setattr(loop, "accuracies", stop)
    with pytest.raises(Killed) as kept:  # the traceback keeps what the run's frames hold
        fit(net, TRAIN, VAL, FineTune(epochs=1, threshold_scale=3.0), Settings(), progress=False)
    assert kept.tb
    assert not [name for name, _ in net.named_parameters() if "threshold" in name]


def test_thresholds_that_learn_save_more_under_a_penalty() -> None:
    saved = []
    for scale in (0.0, 10.0):
        net = NETWORKS["plain"]("gated")
        recipe = FineTune(epochs=3, mac_penalty=1.0, threshold_scale=scale)
        fit(net, TRAIN, VAL, recipe, Settings(batch_size=20, lr=3e-3), progress=False)
        assert not [name for name, _ in net.named_parameters() if "threshold" in name]
        saved.append(count_termination(net, VAL).saved)
    assert saved[1] > saved[0] + 0.02


def test_other_weights_are_another_run_and_none_do_not_show(tmp_path: Path) -> None:
    def run(weights: dict[str, float] | None) -> None:
        recipe = FineTune(epochs=1, mac_penalty=0.2, penalty_weights=weights)
        fit(NETWORKS["plain"](), TRAIN, VAL, recipe, Settings(), run_dir=tmp_path / str(weights), progress=False)

    run(None)
    _, header = read_tensors(tmp_path / "None" / "checkpoint.safetensors", kind=KIND, version=VERSION)
    assert header["run"].startswith("FineTune(epochs=1, mac_penalty=0.2), ")
    run({"conv1": 1.0, "conv2": 2.0})
    (tmp_path / str({"conv1": 1.0, "conv2": 2.0})).rename(tmp_path / str({"conv2": 2.0, "conv1": 1.0}))
    run({"conv2": 2.0, "conv1": 1.0})  # in another order, but the same
    (tmp_path / "None").rename(tmp_path / str({"conv1": 2.0}))
    with pytest.raises(ConfigError, match="other settings"):
        run({"conv1": 2.0})


def test_a_weight_for_a_layer_that_is_not_there() -> None:
    recipe = FineTune(epochs=1, mac_penalty=0.2, penalty_weights={"conv9": 1.0})
    with pytest.raises(ConfigError, match="terminating layer 'conv9'"):
        fit(NETWORKS["plain"](), TRAIN, VAL, recipe, Settings(), progress=False)


def test_a_mac_penalty_saves_more_than_none() -> None:
    saved = []
    for penalty in (0.0, 2.0):
        net = NETWORKS["plain"]()
        recipe = FineTune(epochs=3, mac_penalty=penalty)
        fit(net, TRAIN, VAL, recipe, Settings(batch_size=20, lr=3e-3), progress=False)
        saved.append(count_termination(net, VAL).saved)
    assert saved[1] > saved[0] + 0.02


@pytest.mark.parametrize("change", [{"share": 0.4}, {"gradient": "exact"}], ids=str)
def test_other_checks_or_another_gradient_are_another_run(change: dict[str, Any], tmp_path: Path) -> None:
    def run(share: float = 0.3, gradient: str = "gated") -> History:
        net = with_checks(plain(), gradient)
        net.conv1.set_checks([Check(share=share)])
        return fit(net, TRAIN, VAL, FineTune(epochs=1), run_dir=tmp_path, progress=False)

    first = run()
    assert run().rows == first.rows
    with pytest.raises(ConfigError, match="stop early in another way"):
        run(**change)
    # A checkpoint from before this was told apart is taken as it was then.
    path = tmp_path / "checkpoint.safetensors"
    tensors, header = read_tensors(path, kind=KIND, version=VERSION)
    del header["stops"]
    write_tensors(path, tensors, header)
    assert run(**change).rows == first.rows
