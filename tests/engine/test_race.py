"""Measuring an engine beside other runtimes."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from engine_reference import needs_kernels
from torch import Tensor, nn

import tapernet as tn
from tapernet.engine.peers import PEERS, Call, Peer
from tapernet.engine.race import race
from tapernet.engine.timings import COMPLETE, ENGINE, Race, Timing
from tapernet.errors import ConfigError
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import terminating_layers


def _fixed(model: nn.Module, x: Tensor, threads: int) -> Call:
    return lambda: model(x).detach()


def _wrong(model: nn.Module, x: Tensor, threads: int) -> Call:
    return lambda: 2 * model(x).detach() + 1


def _absent(model: nn.Module, x: Tensor, threads: int) -> Call:
    raise ImportError("no such package")


@pytest.fixture
def net() -> TaperedNet:
    torch.manual_seed(0)
    return tn.taper(tn.zoo.create("mlp"), torch.zeros(1, 1, 28, 28)).eval()


def _with(monkeypatch: pytest.MonkeyPatch, **peers: Peer) -> None:
    monkeypatch.setattr(PEERS, "_entries", {**PEERS._entries, **peers})


@needs_kernels
def test_every_runtime_is_measured_at_every_budget(net: TaperedNet, monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, fixed=Peer(_fixed), absent=Peer(_absent))
    images = torch.randn(4, 1, 28, 28)
    found = race(net, images, [0.5], ["torch", "fixed", "absent"], rounds=3, seconds=0.001)
    assert [(t.runtime, t.budget) for t in found.timings] == [
        (runtime, budget) for budget in (1.0, 0.5) for runtime in (ENGINE, "torch", "fixed")
    ]
    assert found.missing == {"absent": "no such package"}
    for t in found.timings:
        assert 0 < t.fastest <= t.milliseconds <= t.slowest
        assert t.error < 1e-5
    full, half = found.at(1.0)[0], found.at(0.5)[0]
    assert (full.macs, full.time) == (1.0, 1.0)
    # 784 x 50 + 50 x 50 + 50 x 10 of 784 x 100 + 100 x 100 + 100 x 10
    assert half.macs == pytest.approx(42_200 / 89_400)
    best = found.speed_up(0.5)
    assert best is not None
    assert best[0] in ("torch", "fixed")
    assert json.loads(json.dumps(found.as_dict()))["speed_up"]["0.5"] == list(best)
    assert found.plot().axes[0].get_legend_handles_labels()[1] == [ENGINE, "torch", "fixed"]


def _timing(runtime: str, milliseconds: float, exact: bool = True) -> Timing:
    return Timing(runtime, 1.0, exact, milliseconds, milliseconds, milliseconds, 1.0, 1.0, 0.0)


def _race(*timings: Timing) -> Race:
    return Race("net", "machine", 1, 1, 3, "avx2", timings, {})


@needs_kernels
def test_the_engine_runs_the_kernels_asked_for(net: TaperedNet) -> None:
    result = race(net, torch.randn(2, 1, 28, 28), [], ["torch"], rounds=1, seconds=1e-4, kernels="portable")
    assert result.kernels == "portable"
    with pytest.raises(ConfigError, match="unknown instruction set 'sse'"):
        race(net, torch.randn(2, 1, 28, 28), [], ["torch"], rounds=1, seconds=1e-4, kernels="sse")


def test_no_speed_up_over_eager_torch_alone() -> None:
    eager = _race(_timing(ENGINE, 1.0), _timing("torch", 5.0), _timing("torch, channels last", 4.0))
    assert eager.speed_up(1.0) is None
    assert "no speed-up" in str(eager.table().caption)
    assert not any(eager.table().columns[-1].cells)


def test_the_speed_up_is_over_the_fastest_of_the_same_precision() -> None:
    found = _race(
        _timing(ENGINE, 1.0), _timing("torch", 5.0), _timing("ONNX Runtime", 1.5),
        _timing("ONNX Runtime, int8", 0.5, exact=False),
    )  # fmt: skip
    assert found.speed_up(1.0) == ("ONNX Runtime", 1.5)


@needs_kernels
def test_a_network_that_stops_early_is_measured_beside_itself_without_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _with(monkeypatch, coarse=Peer(_fixed, exact=False))
    torch.manual_seed(0)
    images = torch.rand(40, 3, 16, 16)
    labels = torch.randint(10, (40,))
    data = tn.ImageData((images * 255).to(torch.uint8), labels, tuple("abcdefghij"), (0.0,) * 3, (1.0,) * 3)
    images = data.as_float()
    plain = tn.zoo.create("c10net", input_shape=(3, 16, 16)).eval()
    net = tn.terminate(plain, images[:1])
    for layer in terminating_layers(net).values():
        layer.set_checks([tn.Check(share=0.2)])
    before = images.clone()
    found = race(net, images[:6], [], ["torch", "coarse"], data=data, rounds=1, seconds=0.001)  # 40 in sixes
    assert torch.equal(images, before)
    assert [t.runtime for t in found.timings] == [ENGINE, COMPLETE, "torch", "coarse"]
    right = [float((n(images).argmax(1) == labels).float().mean()) for n in (net.eval(), plain, plain, plain)]
    assert [t.accuracy for t in found.timings] == pytest.approx(right)
    report = tn.count_termination(net, images)
    assert [t.macs for t in found.timings] == pytest.approx([report.done / report.total, 1, 1, 1])
    assert all(t.error < 1e-4 for t in found.timings)
    assert "accuracy" in [column.header for column in found.table().columns]
    assert found.plot().axes[0].get_xlabel() == "milliseconds per image"


@needs_kernels
def test_a_layer_that_is_faster_dense_is_compared_with_the_network_that_computes_it_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    net = tn.terminate(tn.zoo.create("c10net", input_shape=(3, 16, 16)).eval(), images)
    layers = terminating_layers(net)
    for layer in layers.values():
        layer.set_checks([tn.Check(share=0.2)])
    choices = dict.fromkeys(layers, "dense") | {"conv2": "terminating"}
    compiling = import_module("tapernet.engine.compile")  # the module; the package has the function under this name
    monkeypatch.setattr(compiling, "choose", lambda *arguments: choices)
    found = race(net, images, [], ["torch"], rounds=1, seconds=0.001, calibration=images)
    assert found.choices == choices
    assert found.timings[0].error < 1e-4
    assert "stops early in conv2" in str(found.table().caption)


@needs_kernels
def test_a_runtime_that_computes_something_else_is_told(net: TaperedNet, monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, wrong=Peer(_wrong))
    with pytest.raises(ConfigError, match="wrong gives another result than torch"):
        race(net, torch.randn(2, 1, 28, 28), [], ["wrong"], rounds=1, seconds=0.001)


def test_bad_arguments(net: TaperedNet) -> None:
    with pytest.raises(ConfigError, match=r"unknown runtime 'onnx runtime'.*ONNX Runtime"):
        race(net, torch.randn(2, 1, 28, 28), [], ["onnx runtime"])
    with pytest.raises(ConfigError, match="without a dial"):
        race(net.model, torch.randn(2, 1, 28, 28), [0.5])
    with pytest.raises(ConfigError, match="no images"):
        race(net, torch.randn(0, 1, 28, 28), [])


@needs_kernels
@pytest.mark.parametrize(
    "runtime", ["torch, channels last", "ONNX Runtime", "ONNX Runtime, int8", "OpenVINO", "OpenVINO, bfloat16"]
)
def test_runtimes(runtime: str) -> None:
    if not runtime.startswith("torch"):
        pytest.importorskip("onnxscript")
        pytest.importorskip("openvino" if runtime.startswith("OpenVINO") else "onnxruntime")
    torch.manual_seed(0)
    net = tn.taper(tn.zoo.create("c10net", input_shape=(3, 16, 16)), torch.zeros(1, 3, 16, 16)).eval()
    data = tn.ImageData(torch.randn(50, 3, 16, 16), torch.zeros(50, dtype=torch.long), tuple("abcdefghij"))
    data = replace(data, labels=net(data.as_float()).argmax(1))
    found = race(net, data.as_float()[:8], [], [runtime], data=data, rounds=1, seconds=0.001)
    if runtime == "OpenVINO, bfloat16" and found.missing == {runtime: "the processor has no bfloat16"}:
        pytest.skip(found.missing[runtime])
    assert found.missing == {}
    assert found.timings[1].error < (1e-5 if PEERS[runtime].exact else 0.2)
    assert found.timings[1].accuracy == pytest.approx(1.0, abs=0.0 if PEERS[runtime].exact else 0.2)
