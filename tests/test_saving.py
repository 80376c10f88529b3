import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tapernet import (
    Check,
    FineTune,
    ImageData,
    InputSpec,
    calibrate,
    fit,
    load,
    place_checks,
    prune_filters,
    save,
    taper,
    terminate,
    zoo,
)
from tapernet.errors import ConfigError, FileError
from tapernet.files import read_tensors, write_tensors
from tapernet.nn.learning import learning_thresholds
from tapernet.nn.terminating import terminating_layers
from tapernet.saving import KIND, VERSION, load_with_spec
from tapernet.zoo.trained import WEIGHTS

X = torch.randn(3, 1, 4, 4)
PROFILES = ["linear", "trainable", {0.5: "linear", 1.0: "harmonic"}, [2 - i / 20 for i in range(20)]]


def make(profile: object = "linear"):  # type: ignore[no-untyped-def]
    model = zoo.create("mlp", input_shape=[1, 4, 4], classes=3, hidden=[20, 12])
    return taper(model, X[:1], profile=profile, keep=["fc2"], multiple=4).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_a_network_comes_back_the_same_at_every_budget(profile: object, tmp_path: Path) -> None:
    net = make(profile)
    save(net, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    for budget in (0.1, 0.33, 0.5, 0.8, 1.0):
        with net.at(budget), again.at(budget):
            assert torch.equal(net(X), again(X))


SMALL = {"input_shape": [3, 8, 8], "classes": 4}
IMAGES = torch.rand(6, 3, 8, 8)


def c10net(**arguments: object) -> nn.Module:
    return zoo.create("c10net", **SMALL, **arguments).eval()


def stopping(net: nn.Module) -> nn.Module:
    stopping = terminate(net, IMAGES, bias_first=True)
    for i, layer in enumerate(terminating_layers(stopping).values()):
        layer.set_checks([Check(share=0.1 + i / 10, threshold=0.01 * i)])
    return stopping


CONVOLUTIONAL = {
    "plain": c10net,
    "pruned": lambda: prune_filters(c10net(), IMAGES, method="pfec", ratio=0.4),
    "terminated": lambda: stopping(c10net(batch_norm=True)),
    "pruned, terminated": lambda: stopping(prune_filters(c10net(), IMAGES, method="pfec", ratio=0.4)),
    "tapered, terminated": lambda: stopping(taper(c10net(), IMAGES[:1])),
}


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_a_network_comes_back_with_its_checks_and_widths(kind: str, tmp_path: Path) -> None:
    net = CONVOLUTIONAL[kind]()
    with torch.no_grad():  # weights that building it anew would not give
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) / 20)
    save(net, tmp_path / "net")
    again = load(tmp_path / "net")
    assert torch.equal(net(IMAGES), again(IMAGES))
    assert [x.shape for x in net.state_dict().values()] == [x.shape for x in again.state_dict().values()]
    for path, layer in terminating_layers(net).items():
        assert terminating_layers(again)[path].checks == layer.checks
        assert terminating_layers(again)[path].options == layer.options


def test_a_terminated_network_with_batch_norm_for_each_budget_comes_back(tmp_path: Path) -> None:
    data = ImageData(torch.rand(40, 3, 8, 8), torch.arange(40) % 4, tuple("abcd"))
    net = taper(zoo.create("vgg16", **SMALL, width=0.05), IMAGES)
    fit(net, data, data, FineTune((1.0, 0.5), epochs=1), progress=False)
    stopping = terminate(net, IMAGES)
    save(stopping, tmp_path / "net")
    again = load(tmp_path / "net")
    with stopping.at(0.5), again.at(0.5):  # type: ignore[operator]
        assert torch.equal(stopping.eval()(IMAGES), again(IMAGES))


def test_a_terminated_network_trains_with_its_checks_in_place(tmp_path: Path) -> None:
    data = ImageData(torch.rand(40, 3, 8, 8), torch.arange(40) % 4, tuple("abcd"))
    net = terminate(c10net(), IMAGES)
    place_checks(net, data, tolerance=1.0)
    checks = {path: layer.checks for path, layer in terminating_layers(net).items()}
    before = [p.clone() for p in net.parameters()]
    fit(net, data, data, FineTune(epochs=2, patience=1), run_dir=tmp_path / "run", progress=False)
    assert {path: layer.checks for path, layer in terminating_layers(net).items()} == checks
    assert any(checks.values())
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    again = terminate(c10net(), IMAGES)
    place_checks(again, data, tolerance=1.0)
    fit(again, data, data, FineTune(epochs=2, patience=1), run_dir=tmp_path / "run", progress=False)
    assert torch.equal(again(IMAGES), net(IMAGES))


def test_a_plain_network_from_elsewhere_is_refused(plain: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not from the zoo"):
        save(plain, tmp_path / "net")


def test_a_file_of_version_1_is_read() -> None:
    # The trained networks of the zoo were written by the first version.
    net, spec = load_with_spec(WEIGHTS / "mlp-digits.safetensors")
    assert spec is not None
    assert net(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_how_the_images_were_prepared_is_kept(tmp_path: Path) -> None:
    spec = InputSpec((0.1,), (0.3,), ("a", "b", "c"), "digits")
    save(make(), tmp_path / "net", spec)
    assert load_with_spec(tmp_path / "net")[1] == spec


def test_a_network_of_the_users_is_loaded_into_their_model(plain: nn.Module, tmp_path: Path) -> None:
    net = taper(plain, X[:1])
    save(net, tmp_path / "net")
    with pytest.raises(ConfigError, match="from the zoo"):
        load(tmp_path / "net")
    assert torch.equal(load(tmp_path / "net", plain)(X), net(X))


def test_another_model_is_refused(plain: nn.Module, tmp_path: Path) -> None:
    save(taper(plain, X[:1]), tmp_path / "net")
    with pytest.raises(FileError, match="does not hold a network that fits together"):
        load(tmp_path / "net", nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99}, {"kind": "cake"}, {"taper": {}}, {"spec": {"mean": [0.5]}},
        {"model": {"name": "no such", "arguments": {}}}, {"model": {"name": "mlp", "arguments": {"hidden": 7}}},
        {"taper": {"profile": "no such", "keep": [], "multiple": 1}}, {"input_shape": [3, 9]},
    ],
)  # fmt: skip
def test_a_header_that_is_not_ours_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "net"
    save(make(), path)
    tensors, header = read_tensors(path, kind=KIND, version=2)
    write_tensors(path, tensors, header | change)
    with pytest.raises(FileError, match=str(path)):
        load(path)


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        load(tmp_path / "nothing")
    save(make(), tmp_path / "net")
    data = (tmp_path / "net").read_bytes()
    (tmp_path / "net").write_bytes(data[:-8])
    with pytest.raises(FileError, match="not a whole safetensors file"):
        load(tmp_path / "net")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        save(make(), tmp_path / "file" / "net")


def test_what_is_saved_while_thresholds_learn_has_those_of_the_moment(tmp_path: Path) -> None:
    net = terminate(c10net(), IMAGES, gradient="gated")
    for layer in terminating_layers(net).values():
        layer.set_checks([Check(share=0.2)])
    with learning_thresholds(net):
        for layer in terminating_layers(net).values():
            assert layer.threshold_moves is not None
            layer.threshold_moves.data.fill_(0.1)
        save(net, tmp_path / "net")
        assert torch.equal(load(tmp_path / "net")(IMAGES), net.eval()(IMAGES))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_pruned_network_is_read_without_gradients(mode: type[torch.no_grad], tmp_path: Path) -> None:
    net = prune_filters(c10net(), IMAGES, method="pfec", ratio=0.5)
    save(net, tmp_path / "net")
    with mode():
        assert torch.equal(load(tmp_path / "net")(IMAGES), net(IMAGES))


class Versioned(nn.Module):
    """Reads the version of its state, as some of torchvision's do."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.conv(x)))

    def _load_from_state_dict(self, state: Any, prefix: str, local_metadata: Any, *arguments: Any) -> None:
        if local_metadata.get("version") != 2:
            raise ValueError(f"version {local_metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, local_metadata, *arguments)


def test_the_versions_of_modules_are_kept(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    net = taper(Versioned(), x, profile="all-one").eval()
    save(net, tmp_path / "net")
    loaded = load(tmp_path / "net", Versioned())
    assert torch.equal(loaded(x), net(x))


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> None:
    """The file with other content and a digest that fits, as of an old file, or of somebody's."""
    tensors, header = read_tensors(path, kind=KIND, version=VERSION)
    change(tensors, header)
    write_tensors(path, tensors, header)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: t.update({"model.0.weight": t["model.0.weight"].long()}), "model.0.weight is of torch.int64"),
        (lambda t, h: t.update({"model.1.running_mean_50": torch.zeros(7)}), "running_mean_50 has shape"),
        (lambda t, h: t.update({"model.1.running_var_100": torch.zeros(2, 4)}), "running_var_100 has shape"),
        (lambda t, h: t.pop("model.0.bias"), "model.0.bias"),
        (lambda t, h: h.update(spec=[1]), "spec is dict or null, not"),
        (lambda t, h: h["spec"].update(mean=["x"]), "mean holds finite numbers"),
        (lambda t, h: h["spec"].update(std=[float("nan")]), "std holds finite numbers"),
        (lambda t, h: h["spec"].update(class_names=[1, 2]), "class_names holds names"),
        (lambda t, h: h["spec"].pop("data"), "data is str or null"),
        (lambda t, h: h.update(input_shape="abc"), "does not hold a network"),
        (lambda t, h: h.update(input_shape=[10**30, 1, 1]), "does not hold a network"),
        (lambda t, h: h.update(taper=[]), "does not hold a network"),
        (lambda t, h: h["taper"].update(profile=3), "does not hold a network"),
        (lambda t, h: h.update(versions=7), "does not hold a network"),
        (lambda t, h: h.pop("taper"), "it lacks 'taper'"),
    ],
)
def test_fields_that_are_wrong_are_named(change: Any, message: str, tmp_path: Path) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 3))

    x = torch.zeros(2, 1, 4, 4)
    net = taper(model(), x, profile="all-one")
    calibrate(net, [torch.randn(9, 1, 4, 4)], [0.5, 1.0])
    save(net, tmp_path / "net", InputSpec((0.5,), (1.0,), ("a", "b", "c")))
    rewritten(tmp_path / "net", change)
    with pytest.raises(FileError, match=re.escape(message)):
        load(tmp_path / "net", model())
