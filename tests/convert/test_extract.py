"""Extracted networks: plain, equal, smaller, and accepted by compilers and exporters."""

import copy
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_nets import NETS
from torch import Tensor, nn

from tapernet.convert.calibrate import calibrate
from tapernet.convert.extract import extract
from tapernet.convert.taper import taper
from tapernet.errors import ConfigError
from tapernet.nn.net import TaperedNet
from tapernet.zoo import create

SHAPE = (3, 6, 6)
EXPORTED = ["grouped, normed", "dense", "squeeze-excite", "convnext"]


def calibrated(model: nn.Module, shape: tuple[int, ...] = SHAPE, budget: object = 0.5) -> TaperedNet:
    torch.manual_seed(0)
    net = taper(model, torch.zeros(2, *shape), "linear").eval()
    calibrate(net, [torch.randn(6, *shape)], [budget])  # type: ignore[list-item]
    return net


def outputs(net: TaperedNet, x: Tensor, budget: object = 0.5) -> Tensor:
    with net.at(budget), torch.no_grad():  # type: ignore[arg-type]
        return net(x)


@pytest.mark.parametrize("name", NETS)
def test_every_layer_is_torchs_and_of_the_kept_size(name: str) -> None:
    net = calibrated(NETS[name].make(6, 4), NETS[name].shape)
    small = extract(net, 0.5)
    reference = NETS[name].make(*NETS[name].kept(6, 4, 50))
    assert [type(m) for m in small.modules()] == [type(m) for m in reference.modules()]
    # What a layer prints are its sizes; what it holds are tensors of those sizes.
    assert repr(small) == repr(reference)
    assert {k: v.shape for k, v in small.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }


@pytest.mark.parametrize("name", ["vgg16", "resnet", "mobilenetv2"])
def test_nothing_of_this_library_is_left(name: str) -> None:
    model = create(name, width=0.25)
    net = calibrated(model, (3, 32, 32))
    small = extract(net, 0.5)
    assert not any(type(m).__module__.startswith("tapernet") for m in small.modules())
    assert set(small.state_dict()) == set(model.state_dict())
    assert not hasattr(small, "zoo_entry")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(small(x), outputs(net, x), rtol=1e-5, atol=1e-5)


def test_modules_of_the_users_stay() -> None:
    model = NETS["residual"].make(6, 4)
    assert type(extract(calibrated(model), 0.5)) is type(model)


def test_the_net_and_the_extracted_share_nothing() -> None:
    net = calibrated(NETS["dense"].make(6, 4))
    x = torch.randn(2, *SHAPE)
    before = outputs(net, x)
    small = extract(net, 0.5)
    with torch.no_grad():
        for tensor in small.state_dict().values():
            tensor.zero_()
    small.conv1.register_forward_hook(lambda *_: None)
    assert torch.equal(outputs(net, x), before)
    assert not net.model.conv1._forward_hooks


def test_layers_used_twice_are_still_one() -> None:
    small = extract(calibrated(NETS["shared"].make(6, 4)), 0.5)
    assert small.again[0] is small.conv2


def test_full_budget_and_budgets_per_layer() -> None:
    x = torch.randn(2, *SHAPE)
    for budget in (1.0, {"conv1": 0.3, "conv2": 1.0}):
        net = calibrated(NETS["dense"].make(6, 4), budget=budget)
        torch.testing.assert_close(extract(net, budget)(x), outputs(net, x, budget), rtol=1e-5, atol=1e-5)


def test_a_trained_profile_is_folded() -> None:
    net = taper(NETS["residual"].make(6, 4), torch.zeros(2, *SHAPE), "trainable")
    x = torch.randn(4, *SHAPE)
    with torch.no_grad():
        for gamma in net.profiles():
            gamma.copy_(torch.linspace(1, 0.2, len(gamma)))
    calibrate(net, [x], [0.5])
    small = extract(net.eval(), 0.5)
    torch.testing.assert_close(small(x), outputs(net, x), rtol=1e-5, atol=1e-5)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in small.parameters())


def test_it_trains() -> None:
    net = calibrated(NETS["dense"].make(6, 4))
    small = extract(net.train(), 0.5)
    assert small.training
    small(torch.randn(4, *SHAPE)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in small.parameters())
    assert small.bn.num_batches_tracked == 1


@pytest.mark.parametrize(("name", "arguments"), [("mlp", {}), ("vgg16", {"width": 0.25}), ("resnet", {})])
def test_its_file_is_smaller_by_its_share_of_parameters(name: str, arguments: dict[str, float], tmp_path: Path) -> None:
    model = create(name, **arguments)
    shape = (1, 28, 28) if name == "mlp" else (3, 32, 32)
    small = extract(calibrated(model, shape), 0.5)
    sizes = []
    for module in (model, small):
        save_file(module.state_dict(), tmp_path / "weights")
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        sizes.append(((tmp_path / "weights").stat().st_size, len(buffer.getvalue())))
    share = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    assert share < 0.6
    for full, cut in zip(*sizes, strict=True):
        # Names and headers do not shrink.
        assert cut <= share * full + 40_000
        assert cut < 0.6 * full


def test_a_budget_without_statistics() -> None:
    net = calibrated(NETS["dense"].make(6, 4))
    with pytest.raises(ConfigError, match=r"no batch-norm statistics for budget 0.3"):
        extract(net, 0.3)


def test_a_bad_budget() -> None:
    with pytest.raises(ConfigError, match="a budget lies in"):
        extract(calibrated(NETS["chain"].make(6, 4)), 0)


@pytest.mark.parametrize("name", EXPORTED)
def test_compiles(name: str) -> None:
    net = calibrated(NETS[name].make(8, 6))
    x = torch.randn(2, *SHAPE)
    compiled = torch.compile(extract(net, 0.5), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), outputs(net, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXPORTED)
def test_exports(name: str) -> None:
    net = calibrated(NETS[name].make(8, 6))
    x = torch.randn(2, *SHAPE)
    dynamic = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(extract(net, 0.5), (x,), dynamic_shapes=dynamic)
    y = torch.randn(5, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(y), outputs(net, y), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", [*EXPORTED, "resnet"])
def test_exports_to_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, shape = (NETS[name].make(8, 6), SHAPE) if name in NETS else (create(name, depth=8), (3, 32, 32))
    net = calibrated(model, shape)
    x = torch.randn(2, *shape)
    torch.onnx.export(extract(net, 0.5), (x,), str(tmp_path / "small.onnx"), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", options)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), outputs(net, x), rtol=1e-4, atol=1e-5)


def test_a_copy_extracts_alike() -> None:
    net = calibrated(NETS["dense"].make(6, 4))
    x = torch.randn(2, *SHAPE)
    assert torch.equal(extract(copy.deepcopy(net), 0.5)(x), extract(net, 0.5)(x))


def test_a_network_without_a_dial_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no dial"):
        extract(torch.nn.Linear(2, 2), 0.5)  # type: ignore[arg-type]
