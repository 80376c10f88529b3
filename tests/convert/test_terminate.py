"""Which convolutions may stop early, and that the copy computes what the model computes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet import zoo
from tapernet.convert.extract import extract
from tapernet.convert.taper import taper
from tapernet.convert.terminate import terminate, trace, unterminated
from tapernet.errors import ConfigError, DataError, TerminationError
from tapernet.files import read_tensors, write_tensors
from tapernet.measure.termination import by_iteration, count_termination, measure_inputs
from tapernet.nn.check import Check
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import TerminatingConv2d, TerminatingPrefixConv2d, terminating_layers
from tapernet.placement import place_checks

EXAMPLE = torch.zeros(1, 2, 8, 8)


def image(n: int = 3) -> Tensor:
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def conv(inputs: int = 2, outputs: int = 2) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Graph(nn.Module):
    """A convolution whose output goes where a function takes it."""

    def __init__(self, tail: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.conv, self.relu, self.tail = conv(), nn.ReLU(), tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.conv(x), self.relu)


QUALIFY: dict[str, nn.Module] = {
    "relu": nn.Sequential(conv(), nn.ReLU()),
    "relu6": nn.Sequential(conv(), nn.ReLU6()),
    "in place": nn.Sequential(conv(), nn.ReLU(inplace=True)),
    "max pooling": nn.Sequential(conv(), nn.MaxPool2d(2), nn.ReLU()),
    "dropout": nn.Sequential(conv(), nn.Dropout2d(), nn.AdaptiveMaxPool2d(2), nn.Identity(), nn.ReLU()),
    "flatten": nn.Sequential(conv(), nn.Flatten(), nn.ReLU()),
    "function": Graph(lambda y, _: F.relu(F.max_pool2d(y, 2))),
    "method": Graph(lambda y, _: y.relu()),
    "concatenation": Graph(lambda y, relu: relu(torch.cat([y, y], 1))),
    "two uses": Graph(lambda y, relu: relu(y) + F.relu(y).mean()),
    "double": nn.Sequential(conv(), nn.ReLU()).double(),
    "dilated, strided, grouped": nn.Sequential(nn.Conv2d(2, 4, 3, 2, 2, 2, groups=2), nn.ReLU()),
    "same": nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU()),
    "asked for its size": Graph(lambda y, relu: relu(y.view(y.size(0), -1))),
    "asked for its shape": Graph(lambda y, relu: relu(y.reshape(y.shape[0], -1))),
    "clamp": Graph(lambda y, _: y.clamp(min=0)),
    "clamp to a range": Graph(lambda y, _: torch.clamp(y, 0, 6)),
}


@pytest.mark.parametrize("name", QUALIFY)
def test_convolutions_that_may_stop(name: str) -> None:
    model = QUALIFY[name].eval()
    x = image().to(next(model.parameters()))
    stopping = terminate(model, x)
    assert list(terminating_layers(stopping)) == [next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d))]
    assert stopping.skipped == {}
    assert torch.equal(stopping(x), model(x))


def resnet_block() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.outer(F.relu(self.inner(x))))

    return Block()


SKIP: dict[str, tuple[nn.Module, str]] = {
    "output": (nn.Sequential(conv()), "model's output"),
    "average pooling": (nn.Sequential(conv(), nn.AvgPool2d(2), nn.ReLU()), "averaged"),
    "mean": (Graph(lambda y, relu: relu(y.mean(1))), "averaged"),
    "sum": (Graph(lambda y, relu: relu(y + 1)), "summed"),
    "clamp below zero": (Graph(lambda y, _: y.clamp(min=-1)), "clamp"),
    "clamp from above": (Graph(lambda y, _: y.clamp(max=1)), "clamp"),
    "clamp by a tensor": (Graph(lambda y, _: y.clamp(torch.zeros(1))), "clamp"),
    "size alone": (Graph(lambda y, relu: torch.ones(y.size(0))), "nothing reads"),
    "leaky": (nn.Sequential(conv(), nn.LeakyReLU(), nn.ReLU()), "LeakyReLU"),
    "product": (Graph(lambda y, relu: relu(y * 2)), "mul"),
    "another convolution": (nn.Sequential(conv(), nn.Conv1d(2, 2, 1)), "Conv1d"),
    "one use of two": (Graph(lambda y, relu: relu(y) + y.sum()), "sum"),
    "unused": (Graph(lambda y, relu: torch.ones(1)), "nothing reads"),
    "padding": (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU()), "reflect"),
    "late norm": (nn.Sequential(conv(), nn.MaxPool2d(2), nn.BatchNorm2d(2), nn.ReLU()), "batch-norm"),
    "norm without statistics": (
        nn.Sequential(conv(), nn.BatchNorm2d(2, track_running_stats=False), nn.ReLU()), "batch-norm",
    ),
}  # fmt: skip


def test_straight_through_takes_a_relu_behind_a_view_in() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = conv(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.relu(y.view(y.size(0), -1))

    model = Model().eval()
    stopping = terminate(model, EXAMPLE, gradient="straight-through")
    assert isinstance(stopping.get_submodule("relu"), nn.Identity)
    assert torch.equal(stopping(image()), model(image()))


@pytest.mark.parametrize("name", SKIP)
def test_convolutions_that_may_not_stop(name: str) -> None:
    model, reason = SKIP[name]
    with pytest.raises(TerminationError, match=reason):
        terminate(model, EXAMPLE)


def test_those_left_alone_are_listed_with_the_reason() -> None:
    model = resnet_block()
    stopping = terminate(model, EXAMPLE)
    assert list(terminating_layers(stopping)) == ["inner"]
    assert list(stopping.skipped) == ["outer"]
    assert "summed" in stopping.skipped["outer"]
    assert type(stopping.get_submodule("outer")) is nn.Conv2d


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_other_convolutions_are_listed(kind: type[nn.Module]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.other = conv(), kind(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.conv(x))
            return F.relu(self.other(y.flatten(2) if kind is nn.Conv1d else y[:, :, None]))

    assert terminate(Model(), EXAMPLE).skipped == {"other": f"{kind.__name__} is not a Conv2d"}


def test_the_paper_networks_have_every_convolution_replaced() -> None:
    for name, count in [("c10net", 3), ("nin", 9)]:
        stopping = terminate(zoo.create(name, input_shape=(2, 8, 8)), EXAMPLE)
        assert len(terminating_layers(stopping)) == count
        assert stopping.skipped == {}
        assert all(layer.rectified for layer in terminating_layers(stopping).values())


def test_the_model_is_not_changed() -> None:
    model = zoo.create("c10net", input_shape=(2, 8, 8), batch_norm=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    terminate(model, EXAMPLE)
    assert not terminating_layers(model)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_kept(training: bool) -> None:
    stopping = terminate(zoo.create("nin", input_shape=(2, 8, 8)).train(training), EXAMPLE)
    assert all(module.training == training for module in stopping.modules())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gradient", ["exact", "straight-through", "gated"])
def test_batch_norm_is_folded(bias: bool, gradient: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=bias), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.ReLU())
    for _ in range(3):
        model(image(8))
    nn.init.normal_(model[1].weight)
    stopping = terminate(model.eval(), EXAMPLE, gradient=gradient)
    assert type(stopping[1]) is nn.Identity
    assert torch.allclose(stopping(image()), model(image()), atol=1e-6)
    (layer,) = terminating_layers(stopping).values()
    assert layer.terms == 19
    assert layer.bias.requires_grad


def test_a_stopped_filter_emits_what_relu_makes_zero() -> None:
    model = zoo.create("c10net", input_shape=(2, 8, 8))
    stopping = terminate(model, EXAMPLE).eval()
    layer = stopping.conv1
    layer.set_checks([Check(share=0.3, threshold=1e6)])
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(1.0)
    # Every filter stops before its bias: nothing is left but the partial sum of zero.
    assert torch.equal(layer(image()), torch.zeros(3, 32, 8, 8))


# --- options ---------------------------------------------------------------------------------------------------------


def test_straight_through_takes_the_relu_in() -> None:
    model = zoo.create("c10net", input_shape=(2, 8, 8)).eval()
    stopping = terminate(model, EXAMPLE, gradient="straight-through")
    assert not any(isinstance(m, nn.ReLU) for m in stopping.modules())
    assert torch.equal(stopping(image()), model(image()))


@pytest.mark.parametrize("name", ["function", "two uses", "relu6"])
def test_straight_through_needs_a_relu_of_its_own(name: str) -> None:
    with pytest.raises(TerminationError, match="serves it alone"):
        terminate(QUALIFY[name], EXAMPLE, gradient="straight-through")


def test_straight_through_does_not_take_a_shared_relu() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.relu, self.own = conv(), conv(), nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.own(self.b(self.relu(self.a(self.relu(x)))))

    stopping = terminate(Model(), EXAMPLE, gradient="straight-through")
    assert list(terminating_layers(stopping)) == ["b"]
    assert "serves it alone" in stopping.skipped["a"]


def test_exact_order_skips_layers_whose_inputs_may_be_negative() -> None:
    model = zoo.create("nin", input_shape=(2, 8, 8)).eval()
    stopping = terminate(model, EXAMPLE, order="exact")
    assert list(stopping.skipped) == ["conv1"]
    assert torch.equal(stopping(image()), model(image()))
    assert not terminate(model, EXAMPLE, order="exact", non_negative_input=True).skipped


@pytest.mark.parametrize("below_zero", [
    lambda y: y + (-1.0), lambda y: y - 1.0, lambda y: torch.add(y, y, alpha=-2), lambda y: -1 + y, lambda y: y.add(-1),
])  # fmt: skip
def test_exact_order_skips_a_layer_after_a_sum_that_may_be_negative(below_zero: Callable[[Tensor], Tensor]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.second(below_zero(F.relu(self.first(x)))))

    stopping = terminate(Model(), EXAMPLE, order="exact", non_negative_input=True)
    assert list(terminating_layers(stopping)) == ["first"]
    assert "may be negative" in stopping.skipped["second"]


@pytest.mark.parametrize("as_great", [lambda y: y + 1.0, lambda y: torch.add(y, y, alpha=2), lambda y: y.clamp(min=0)])
def test_exact_order_takes_a_layer_after_a_sum_of_what_is_not_negative(as_great: Callable[[Tensor], Tensor]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.second(as_great(F.relu(self.first(x)))))

    assert not terminate(Model(), EXAMPLE, order="exact", non_negative_input=True).skipped


def test_options_reach_the_layers() -> None:
    stopping = terminate(QUALIFY["relu"], EXAMPLE, order="expected", bias_first=True)
    (layer,) = terminating_layers(stopping).values()
    assert (layer.options.order, layer.options.bias_first) == ("expected", True)


def test_an_unknown_order() -> None:
    with pytest.raises(ConfigError, match="magnitude"):
        terminate(QUALIFY["relu"], EXAMPLE, order="size")


# --- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["exact", "straight-through", "gated"])
def test_a_terminated_network_is_rebuilt_from_tensors_and_options(tmp_path: Path, gradient: str) -> None:
    make = lambda: zoo.create("c10net", input_shape=(2, 8, 8), batch_norm=True)  # noqa: E731
    stopping = terminate(make(), EXAMPLE, bias_first=True, gradient=gradient).eval()
    stopping.conv2.set_checks([Check(share=0.05), Check(position=300, threshold=[-0.01] * 32)])
    header = {"kind": "t", "version": 1, "options": stopping.termination}
    write_tensors(tmp_path / "net.safetensors", stopping.state_dict(), header)
    tensors, header = read_tensors(tmp_path / "net.safetensors", kind="t", version=1)
    again = terminate(make(), EXAMPLE, **header["options"]).eval()
    again.load_state_dict(tensors)
    assert again.conv2.checks == stopping.conv2.checks
    assert torch.equal(again(image()), stopping(image()))


# --- the network with a dial -----------------------------------------------------------------------------------------


def dialled() -> TaperedNet:
    torch.manual_seed(0)
    return taper(zoo.create("c10net", input_shape=(2, 8, 8)), EXAMPLE)


def test_both_knobs_on_one_network() -> None:
    net = dialled().eval()
    stopping = terminate(net, EXAMPLE)
    assert isinstance(stopping, TaperedNet)
    layers = terminating_layers(stopping)
    assert list(layers) == ["model.conv1", "model.conv2", "model.conv3"]
    assert all(isinstance(layer, TerminatingPrefixConv2d) for layer in layers.values())
    for budget in (1.0, 0.5, 0.2):
        with net.at(budget), stopping.at(budget):
            assert torch.equal(stopping(image()), net(image()))
    for layer in layers.values():
        layer.set_checks([Check(share=0.2)])
    for budget in (1.0, 0.5, 0.2):
        with net.at(budget), stopping.at(budget):
            out = stopping(image())
            assert out.isfinite().all()
            assert not torch.equal(out, net(image()))


@pytest.mark.parametrize("order", ["magnitude", "expected", "exact"])
@pytest.mark.parametrize("budget", [1.0, 0.5, 0.3])
def test_terminating_an_extracted_network_is_the_same(order: str, budget: float) -> None:
    net = dialled().eval()
    dial = terminate(net, EXAMPLE, order=order)
    small = terminate(extract(net, budget), EXAMPLE, order=order)
    layers = {path.removeprefix("model."): layer for path, layer in terminating_layers(dial).items()}
    if order == "expected":
        measure_inputs(dial, image())
    for path, layer in terminating_layers(small).items():
        layer.input_mean.copy_(layers[path].input_mean[: layer.in_channels])
        if order != "exact":
            for each in (layer, layers[path]):
                each.set_checks([Check(share=0.05), Check(share=0.4)])
    with dial.at(budget):
        reports = [count_termination(each, image()) for each in (dial, small)]
        again = extract(dial, budget)
        assert torch.allclose(dial(image()), small(image()), atol=1e-6)
        assert torch.allclose(again(image()), small(image()), atol=1e-6)
    assert [layer.situations for layer in reports[0].layers] == [layer.situations for layer in reports[1].layers]
    assert 0 < reports[0].saved < 1
    assert count_termination(again, image()).saved == reports[1].saved


def test_a_layer_with_a_version_for_each_range_is_left_alone() -> None:
    net = taper(zoo.create("c10net", input_shape=(2, 8, 8)), EXAMPLE, profile={0.5: "linear", 1.0: "all-one"})
    stopping = terminate(net, EXAMPLE)
    assert list(terminating_layers(stopping)) == ["model.conv2", "model.conv3"]
    assert "by itself" in stopping.skipped["model.conv1.versions.0"]


# --- bad input -------------------------------------------------------------------------------------------------------


def test_no_such_convolution() -> None:
    with pytest.raises(TerminationError, match="no convolution"):
        terminate(zoo.create("mlp"), torch.zeros(1, 1, 28, 28))


def test_already_terminated() -> None:
    stopping = terminate(QUALIFY["relu"], EXAMPLE)
    with pytest.raises(TerminationError, match="already terminated"):
        terminate(stopping, EXAMPLE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    with pytest.raises(TerminationError, match=str(dtype)):
        terminate(nn.Sequential(conv(), nn.ReLU()).to(dtype), EXAMPLE.to(dtype))


def test_integer_weights() -> None:
    model = nn.Sequential(conv(), nn.ReLU())
    model[0].weight = nn.Parameter(torch.ones(2, 2, 3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TerminationError, match="int8"):
        terminate(model, EXAMPLE)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    model = nn.Sequential(conv(), nn.ReLU())
    with torch.no_grad():
        model[0].weight[1, 0, 2, 2] = value
    with pytest.raises(TerminationError, match=r"0\.weight has a value that is not finite"):
        terminate(model, EXAMPLE)


def test_zero_images() -> None:
    with pytest.raises(DataError, match="zero images"):
        terminate(QUALIFY["relu"], EXAMPLE[:0])


def test_an_example_that_does_not_fit() -> None:
    with pytest.raises(TerminationError, match="does not run"):
        terminate(QUALIFY["relu"], torch.zeros(1, 5, 8, 8))


def test_a_model_that_cannot_be_traced() -> None:
    with pytest.raises(TerminationError, match="cannot be traced"):
        terminate(Graph(lambda y, relu: relu(y) if y.sum() > 0 else y), EXAMPLE)


def test_tracing_leaves_the_mode_alone() -> None:
    model = nn.Sequential(conv(), nn.ReLU(), nn.Dropout().eval())
    trace(model)
    assert [m.training for m in model] == [True, True, False]
    assert isinstance(model[0], nn.Conv2d)
    assert not isinstance(model[0], TerminatingConv2d)


@pytest.mark.parametrize("gradient", ["exact", "straight-through", "gated"])
def test_without_early_stops_it_is_the_network_it_was(gradient: str) -> None:
    torch.manual_seed(0)
    model, images = zoo.create("c10net", input_shape=(3, 16, 16)).eval(), torch.randn(2, 3, 16, 16)
    net = terminate(model, images, gradient=gradient).eval()
    for layer in terminating_layers(net).values():
        layer.set_checks([Check(share=0.1)])
    plain = unterminated(net)
    torch.testing.assert_close(plain(images), model(images))
    assert not terminating_layers(plain)
    assert (net(images) != model(images)).any()


class TwoNames(nn.Module):
    """Its layers have names of their own and places in a Sequential, which is what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = conv(), nn.BatchNorm2d(2), nn.ReLU()
        self.features = nn.Sequential(self.conv, self.norm, self.relu)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("gradient", ["exact", "gated"])
def test_modules_of_two_names_are_replaced_under_both(gradient: str) -> None:
    torch.manual_seed(0)
    model = TwoNames()
    model(3 * image(8) + 1)  # statistics that show if they are applied twice
    stopping = terminate(model.eval(), EXAMPLE, gradient=gradient)
    assert stopping.conv is stopping.features[0]
    assert isinstance(stopping.conv, TerminatingConv2d)
    assert torch.allclose(stopping(image()), model(image()), rtol=0, atol=1e-5)


def test_a_module_in_a_plain_list_is_refused() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = conv(), nn.ReLU()
            self.steps = [self.conv, self.relu]

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = step(x)
            return x

    with pytest.raises(TerminationError, match=r"plain list.*ModuleList"):
        terminate(Listed(), EXAMPLE)


def test_a_frozen_model_stays_frozen() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False), nn.ReLU()).eval()
    for trains in (True, False):
        stopping = terminate(model.requires_grad_(trains), EXAMPLE)
        assert {p.requires_grad for net in (stopping, unterminated(stopping)) for p in net.parameters()} == {trains}


class ByName(nn.Module):
    """Its convolutions are given their input by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(input=F.relu(self.a(input=x)))).mean((2, 3))


def test_a_convolution_may_be_called_by_keyword() -> None:
    model, images = ByName(), image()
    assert terminate(model, images.abs(), order="exact", non_negative_input=True).skipped == {}
    net = terminate(model, images, order="expected")
    measure_inputs(net, images)
    assert torch.allclose(net.a.input_mean, images.abs().mean((0, 2, 3)))
    assert [found.iteration for found in by_iteration(net, "b", images, [3, 5])] == [3, 5]
    placed = place_checks(net, (images, torch.zeros(3, dtype=torch.long)), tolerance=1, method="per-filter")
    assert all(placed.checks.values())
