"""The operator in torch's compilers, and its gradients."""

import pytest
import torch
import torch.nn.functional as F
from engine_reference import by_torch, close
from torch import Tensor, nn

import tapernet as tn
from tapernet.engine import with_operators
from tapernet.engine.native import extension
from tapernet.engine.operator import StoppingConv2d, terminating_conv2d
from tapernet.errors import TerminationError
from tapernet.nn.order import Termination
from tapernet.nn.terminating import TerminatingConv2d, terminating_layers

pytestmark = pytest.mark.filterwarnings("ignore:the native kernels")


def test_it_gives_what_the_layers_give(net: nn.Module) -> None:
    x = torch.rand(3, 3, 16, 16)
    close(by_torch(with_operators(net), x), by_torch(net, x))
    assert terminating_layers(net)  # the network itself keeps its layers


def test_an_exported_program_keeps_the_operator(net: nn.Module) -> None:
    x = torch.rand(3, 3, 16, 16)
    shapes = ({0: torch.export.Dim("n")},)
    program = torch.export.export(with_operators(net), (x,), dynamic_shapes=shapes)
    operators = [n for n in program.graph.nodes if n.target is torch.ops.tapernet.terminating_conv2d.default]
    assert len(operators) == 3
    other = torch.rand(5, 3, 16, 16)
    close(program.module()(other), by_torch(net, other))


def test_torch_compile_takes_it_whole(net: nn.Module) -> None:
    x = torch.rand(3, 3, 16, 16)
    compiled = torch.compile(with_operators(net), backend="aot_eager", fullgraph=True)
    close(by_torch(compiled, x), by_torch(net, x))  # type: ignore[arg-type]


def _layer(**options: object) -> TerminatingConv2d:
    torch.manual_seed(1)
    layer = TerminatingConv2d(3, 5, 3, stride=2, padding=1, options=Termination(**options), rectified=True)  # type: ignore[arg-type]
    layer.set_checks([tn.Check(share=0.3)])
    return layer


def test_torchs_own_checks_of_operators() -> None:
    layer = StoppingConv2d("conv", _layer())
    x = torch.randn(2, 3, 7, 7, requires_grad=True)
    arguments = (x, layer.weight, layer.bias, layer.input_mean, *layer.window, layer.order, False, layer.checks)
    torch.library.opcheck(terminating_conv2d, arguments)


@pytest.mark.parametrize(
    ("bias_first", "check"),
    [(False, tn.Check(share=0.3)), (True, tn.Check(share=0.3)), (True, tn.Check(bits=8, threshold=2e4))],
)
def test_gradients_are_those_of_the_layer(bias_first: bool, check: tn.Check) -> None:
    layer = _layer(bias_first=bias_first).eval()
    layer.set_checks([check])
    # Bytes as they are, so that rounded sums are exact, whether the kernels take them or full ones.
    x = torch.randint(-127, 128, (2, 3, 7, 7)).float()
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-127, 128, layer.weight.shape))
        x[:, 0, 0, 0] = layer.weight[:, 0, 0, 0] = 127
    operator = StoppingConv2d("conv", layer)
    found = []
    for module in (operator, nn.Sequential(layer, nn.ReLU())):
        own = x.clone().requires_grad_()
        module(own).square().sum().backward()
        found.append([own.grad, *(p.grad for p in module.parameters())])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        close(a, b)


def test_changed_weights_are_seen() -> None:
    layer = _layer()
    operator, x = StoppingConv2d("conv", layer), torch.randn(1, 3, 7, 7)
    before = by_torch(operator, x)
    with torch.no_grad():
        for module in (operator, layer):
            module.weight.mul_(-2)
    after = by_torch(operator, x)
    assert not torch.equal(before, after)
    close(after, F.relu(by_torch(layer, x)))


def test_weights_of_inference_mode_which_torch_counts_no_changes_of() -> None:
    with torch.inference_mode():
        layer = _layer()
        operator, x = StoppingConv2d("conv", layer), torch.randn(1, 3, 7, 7)
        before = operator(x)
        close(before, F.relu(by_torch(layer, x)))
        for module in (operator, layer):
            module.weight.mul_(-2)
        assert not torch.equal(operator(x), before)
    close(by_torch(operator, x), F.relu(by_torch(layer, x)))


@pytest.mark.skipif(extension() is None, reason="the native kernels were not built")
def test_weights_of_inference_mode_are_packed_once() -> None:
    from tapernet.engine.operator import PACKED

    with torch.inference_mode():
        operator, x = StoppingConv2d("conv", _layer()), torch.randn(1, 3, 7, 7)
        engines = []
        for _ in range(2):
            operator(x)
            engines.append(next(reversed(PACKED._engines.values()))[0])
    assert engines[0] is engines[1]


def test_uneven_padding_and_double_precision() -> None:
    torch.manual_seed(2)
    layer = TerminatingConv2d(3, 5, (2, 4), padding="same", rectified=True)
    layer.set_checks([tn.Check(share=0.3)])
    x = torch.randn(2, 3, 7, 7)
    close(by_torch(StoppingConv2d("conv", layer), x), F.relu(by_torch(layer, x)))
    double = layer.double()
    close(by_torch(StoppingConv2d("conv", double), x.double()), F.relu(by_torch(double, x.double())))


def test_what_the_operator_lacks() -> None:
    with pytest.raises(TerminationError, match="no layer with checks"):
        with_operators(nn.Linear(2, 2))
    with pytest.raises(TerminationError, match="conv: the operator has no straight-through gradient"):
        StoppingConv2d("conv", _layer(gradient="straight-through"))
    above = _layer()
    above.set_checks([tn.Check(share=0.3, threshold=0.1)])
    with pytest.raises(TerminationError, match="0: the operator has no thresholds above zero"):
        with_operators(nn.Sequential(above))
    above.set_checks([tn.Check(bits=8, threshold=0.1)])  # without the bias, which it has
    with pytest.raises(TerminationError, match="thresholds above zero"):
        StoppingConv2d("conv", above)
    grouped = TerminatingConv2d(4, 4, 3, groups=2)
    grouped.set_checks([tn.Check(share=0.3)])
    with pytest.raises(TerminationError, match="groups"):
        StoppingConv2d("conv", grouped)


@pytest.mark.skipif(extension() is None, reason="the native kernels were not built")
def test_it_runs_the_kernels() -> None:
    from tapernet.engine.operator import PACKED

    operator, x = StoppingConv2d("conv", _layer()), torch.randn(1, 3, 7, 7)
    operator(x)
    engine = next(reversed(PACKED._engines.values()))[0]
    assert engine.operations()["0"] == "terminating"
    assert isinstance(operator(x), Tensor)
