import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tapernet import TaperedNet, calibrate, export, taper, terminate, zoo
from tapernet.errors import ConfigError, FileError

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def net() -> TaperedNet:
    torch.manual_seed(0)
    net = taper(zoo.create("resnet", input_shape=SHAPE, classes=4, depth=8), torch.zeros(1, *SHAPE))
    calibrate(net, [torch.randn(16, *SHAPE)], [1.0, 0.5])
    return net.train()  # exports are in eval mode all the same


def outputs(net: TaperedNet, x: torch.Tensor, budget: float = 0.5) -> torch.Tensor:
    with net.at(budget), torch.no_grad():
        found: torch.Tensor = net.eval()(x)
    net.train()
    return found


def test_weights_and_their_header(net: TaperedNet, tmp_path: Path) -> None:
    small = export(net, 0.5, tmp_path / "a.safetensors", {"note": "ours"})
    tensors = load_file(tmp_path / "a.safetensors")
    assert tensors.keys() == small.state_dict().keys()
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensors[name], tensor)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        header = json.loads(file.metadata()["tapernet"])
    assert (header["budget"], header["input_shape"], header["note"]) == (0.5, [3, 8, 8], "ours")
    assert "Conv2d(3, 8" in header["layers"]
    assert net.training


def test_a_program_runs_alike_for_any_batch_and_needs_nothing_of_this_library(
    net: TaperedNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(net, 0.5, tmp_path / "a.pt2")
    with monkeypatch.context() as patch:
        for module in [name for name in sys.modules if name.partition(".")[0] == "tapernet"]:
            patch.setitem(sys.modules, module, None)  # an import of it would fail
        program = torch.export.load(tmp_path / "a.pt2").module()
    for batch in (1, 2, 5):
        x = torch.randn(batch, *SHAPE)
        with torch.no_grad():
            found = program(x)
        torch.testing.assert_close(found, outputs(net, x), rtol=1e-4, atol=1e-5)


def test_an_onnx_model_runs_alike_for_any_batch(net: TaperedNet, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    export(net, 0.5, tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", options)
    for batch in (1, 2, 5):
        x = torch.randn(batch, *SHAPE)
        (found,) = session.run(["scores"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), outputs(net, x), rtol=1e-4, atol=1e-5)


def test_a_named_budget(net: TaperedNet, tmp_path: Path) -> None:
    x = torch.randn(8, *SHAPE)
    net.name_budget("odd", {"conv1": 0.25, "*": 0.5})
    calibrate(net, [x], ["odd"])
    export(net, "odd", tmp_path / "a.pt2")
    with torch.no_grad():
        found = torch.export.load(tmp_path / "a.pt2").module()(x)
    torch.testing.assert_close(found, outputs(net, x, "odd"), rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "name", "message"),
    [
        (0.5, "a.pth", r"unknown ending of an export '.pth'.*valid: .onnx, .pt2, .safetensors"),
        (0.5, "a", "unknown ending of an export ''"),
        (0, "a.pt2", "a budget lies in"),
        ("fast", "a.pt2", "unknown named budget 'fast'"),
        (0.33, "a.pt2", "no batch-norm statistics for budget 0.33"),
    ],
)
def test_a_bad_budget_or_ending_is_refused(
    budget: object, name: str, message: str, net: TaperedNet, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(net, budget, tmp_path / name)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_extra_that_is_missing_is_named(net: TaperedNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"needs the package onnx .*pip install 'tapernet\[export\]'"):
        export(net, 0.5, tmp_path / "a.onnx")


def test_a_place_that_cannot_be_written_is_named(net: TaperedNet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("a.safetensors", "a.pt2"):
        with pytest.raises(FileError, match="cannot write"):
            export(net, 0.5, tmp_path / "file" / name)


def test_layers_that_stop_early_are_kept_as_weights_alone(tmp_path: Path) -> None:
    x = torch.rand(2, *SHAPE)
    net = terminate(taper(zoo.create("c10net", input_shape=SHAPE), x[:1]).eval(), x)
    assert isinstance(net, TaperedNet)
    export(net, 0.5, tmp_path / "a.safetensors")
    for name in ("a.pt2", "a.onnx"):
        with pytest.raises(ConfigError, match="no convolutions that stop early"):
            export(net, 0.5, tmp_path / name)


@pytest.mark.parametrize("ending", [".safetensors", ".onnx", ".pt2"])
def test_a_full_disk_is_told_and_leaves_nothing(net: TaperedNet, tmp_path: Path, ending: str) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write over the limit fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(FileError, match=r"cannot write .*: File too large"):
            export(net, 0.5, tmp_path / f"small{ending}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_an_export_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    """torch's ONNX exporter drops the divisor of an average pooling."""
    pytest.importorskip("onnxscript")
    pool = nn.AvgPool2d(2, divisor_override=1)
    net = taper(nn.Sequential(nn.Conv2d(3, 8, 3), pool, nn.Flatten(), nn.Linear(72, 4)), torch.zeros(1, *SHAPE)).eval()
    with pytest.raises(FileError, match="was not written: the exported model's scores are off by"):
        export(net, 0.5, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
    export(net, 0.5, tmp_path / "a.pt2")


def test_a_program_is_compared_too(net: TaperedNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.export.load
    other = taper(zoo.create("resnet", input_shape=SHAPE, classes=4, depth=8), torch.zeros(1, *SHAPE))
    calibrate(other, [torch.randn(16, *SHAPE)], [0.5])
    export(other, 0.5, tmp_path / "other.pt2")
    monkeypatch.setattr(torch.export, "load", lambda _: load(tmp_path / "other.pt2"))
    with pytest.raises(FileError, match="was not written"):
        export(net, 0.5, tmp_path / "a.pt2")
    assert not (tmp_path / "a.pt2").exists()
