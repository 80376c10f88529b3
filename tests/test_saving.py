from pathlib import Path

import pytest
import torch
from torch import nn

from tapernet import InputSpec, load, save, taper, zoo
from tapernet.errors import ConfigError, FileError
from tapernet.files import read_tensors, write_tensors
from tapernet.saving import KIND, load_with_spec

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
    with pytest.raises(FileError, match="does not fit together"):
        load(tmp_path / "net", nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)))


@pytest.mark.parametrize("change", [{"version": 99}, {"kind": "cake"}, {"taper": {}}, {"model": {"name": "no such"}}])
def test_a_header_that_is_not_ours_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "net"
    save(make(), path)
    tensors, header = read_tensors(path, kind=KIND, version=1)
    write_tensors(path, tensors, header | change)
    with pytest.raises((FileError, ConfigError)):
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
