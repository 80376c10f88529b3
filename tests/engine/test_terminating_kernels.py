"""Convolutions that stop early against the reference, `tapernet.nn.terminating`."""

import json

import pytest
import torch
from engine_reference import KERNELS, by_torch, close, needs_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tapernet as tn
from tapernet.engine.native import extension
from tapernet.errors import ConfigError
from tapernet.nn.terminating import TerminatingConv2d, terminating_layers

pytestmark = needs_kernels


def whole(shape: tuple[int, ...]) -> torch.Tensor:
    """Small whole numbers, so that sums are exact in any order and both sides stop at the same places."""
    return torch.randint(-8, 9, shape).float()


def drawn(data: st.DataObject, channels: int, filters: int) -> nn.Conv2d:
    draw = data.draw
    return nn.Conv2d(
        channels, filters, draw(st.integers(1, 5), "kernel"), draw(st.integers(1, 2), "stride"),
        draw(st.integers(0, 2), "padding"), draw(st.integers(1, 2), "dilation"), bias=draw(st.booleans(), "bias"),
    )  # fmt: skip


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_layers_and_checks(kernels: str, data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 99), "seed"))
    channels, filters = draw(st.integers(1, 40), "channels"), draw(st.integers(1, 40), "filters")
    conv = drawn(data, channels, filters)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(whole(tuple(parameter.shape)))
    x = whole((2, channels, draw(st.integers(9, 36), "h"), draw(st.integers(9, 36), "w")))
    net = tn.terminate(
        nn.Sequential(conv, nn.ReLU()), x, bias_first=draw(st.booleans(), "bias first"),
        gradient=draw(st.sampled_from(["exact", "straight-through", "gated"]), "gradient"),
    ).eval()  # fmt: skip
    (layer,) = terminating_layers(net).values()
    n = layer.terms
    rows = []  # of each filter, a position for each check; n where there is none
    for _ in range(filters):
        places = sorted(draw(st.lists(st.integers(1, n), min_size=3, max_size=3), "positions"))
        none = [draw(st.booleans(), "none") or place in places[:i] for i, place in enumerate(places)]
        rows.append([n if without else place for without, place in zip(none, places, strict=True)])
    checks = [
        tn.Check(position=list(column), threshold=[float(draw(st.integers(-20, 20), "threshold")) for _ in column])
        for column in zip(*rows, strict=True)
    ]
    layer.set_checks(checks[: draw(st.integers(1, 3), "checks")])
    close(tn.compile(net, x, kernels=kernels)(x), by_torch(net, x), 1e-6)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("size", [(70, 64), (67, 30), (130, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_large_images_go_through_in_strips(kernels: str, size: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(48, 9, 5, stride, padding=2, dilation=2)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(whole(tuple(parameter.shape)))
    x = whole((1, 48, *size))
    net = tn.terminate(nn.Sequential(conv, nn.ReLU()), x, bias_first=True).eval()
    (layer,) = terminating_layers(net).values()
    layer.set_checks([tn.Check(share=0.1)])
    close(tn.compile(net, x, kernels=kernels)(x), by_torch(net, x), 1e-6)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("order", ["magnitude", "expected", "exact"])
def test_networks(kernels: str, order: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 3, 32, 32)
    model = tn.zoo.create("c10net", batch_norm=True).eval()
    net = tn.terminate(model, x, order=order, non_negative_input=True).eval()
    if order == "expected":
        tn.measure_inputs(net, x)
    if order != "exact":
        for layer in terminating_layers(net).values():
            layer.set_checks([tn.Check(share=0.07), tn.Check(share=0.4, threshold=-0.02)])
    engine = tn.compile(net, x, kernels=kernels)
    close(engine(x), by_torch(net, x))
    stopping = [name for name, kernel in engine.operations().items() if kernel == "terminating"]
    assert stopping == ([] if order == "exact" else list(terminating_layers(net)))


@pytest.mark.parametrize("budget", [1.0, 0.5, 0.15])
def test_both_dials(budget: float) -> None:
    torch.manual_seed(1)
    x = torch.rand(3, 3, 32, 32)
    net = tn.terminate(tn.taper(tn.zoo.create("c10net"), x), x).eval()
    for layer in terminating_layers(net).values():
        layer.set_checks([tn.Check(share=0.1)])
    with net.at(budget):  # type: ignore[operator]
        close(tn.compile(net)(x, budget=budget), by_torch(net, x))


def drawn_layer(data: st.DataObject) -> tuple[nn.Module, TerminatingConv2d, torch.Tensor]:
    """A network of one layer without checks and its ReLU, the layer itself, and images some of which are negative."""
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 99), "seed"))
    channels, filters = draw(st.integers(1, 40), "channels"), draw(st.integers(1, 70), "filters")
    conv = drawn(data, channels, filters)
    x = torch.rand(3, channels, draw(st.integers(9, 36), "h"), draw(st.integers(9, 36), "w"))
    x -= draw(st.sampled_from([0.0, 0.4, 2.0]), "lowest")
    net = tn.terminate(nn.Sequential(conv, nn.ReLU()), x, bias_first=draw(st.booleans(), "bias first")).eval()
    (layer,) = terminating_layers(net).values()
    return net, layer, x


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_layers_with_rounded_sums(kernels: str, data: st.DataObject) -> None:
    net, layer, x = drawn_layer(data)
    layer.set_checks([tn.Check(bits=8, threshold=-data.draw(st.floats(0, 1), "threshold"))])
    close(tn.compile(net, x, kernels=kernels, choices={"0": "terminating"})(x), by_torch(net, x))


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_rounded_sums_that_are_passed_on(kernels: str, data: st.DataObject) -> None:
    net, layer, x = drawn_layer(data)
    threshold = data.draw(st.sampled_from([0.1, 0.5, 2.0, 3e38]), "threshold")
    layer.set_checks([tn.Check(bits=8, threshold=threshold)])
    expected = by_torch(net, x)
    found = tn.compile(net, x, kernels=kernels, choices={"0": "terminating"})(x)
    # A sum within rounding of its threshold may be passed on in one and computed in full in the other.
    near = (expected - threshold).abs().minimum((found - threshold).abs()) < 1e-4 * expected.abs().max()
    close(torch.where(near, expected, found), expected)
    assert near.float().mean() < 0.01


@pytest.mark.parametrize("kernels", KERNELS)
def test_rounded_sums_are_left_out_where_the_processor_does_not_multiply_bytes(kernels: str) -> None:
    x = torch.rand(2, 16, 9, 9)
    net = tn.terminate(nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()), x, bias_first=True).eval()
    (layer,) = terminating_layers(net).values()
    layer.set_checks([tn.Check(bits=8)])
    usual = "terminating" if extension().multiplies_bytes(kernels) else "dense"
    engine = tn.compile(net, x, kernels=kernels)
    assert engine.choices == engine.operations() == {"0": usual}
    assert not extension().multiplies_bytes("portable")
    assert tn.compile(net, x, kernels=kernels, choices={"0": "terminating"}).operations() == {"0": "terminating"}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("left", [1e4, -1e4, torch.nan])
def test_what_an_earlier_call_left_in_memory_does_not_matter(kernels: str, left: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 16, 8, 8)
    net = tn.terminate(nn.Sequential(nn.Conv2d(16, 8, 3), nn.ReLU()), x, bias_first=True).eval()
    (layer,) = terminating_layers(net).values()
    layer.set_checks([tn.Check(bits=8, threshold=3e38)])  # every output is a sum in eight bits
    engine = tn.compile(net, x, kernels=kernels, choices={"0": "terminating"})
    expected = by_torch(net, x)
    close(engine(x), expected)
    engine(torch.full((1, 16, 20, 20), left))
    close(engine(x), expected)


@pytest.mark.parametrize("kernels", KERNELS)
def test_images_that_are_no_numbers_are_computed_in_full(kernels: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 20, 9, 9)
    x[0, 3, 4, 4], x[2] = torch.nan, 0
    net = tn.terminate(nn.Sequential(nn.Conv2d(20, 20, 3), nn.ReLU()), x, bias_first=True).eval()
    (layer,) = terminating_layers(net).values()
    layer.set_checks([tn.Check(bits=8)])
    found = tn.compile(net, x, kernels=kernels, choices={"0": "terminating"})(x)
    expected = by_torch(net, x)
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_sums_of_too_many_bytes_are_left_to_torch() -> None:
    x = torch.rand(1, 66_400, 1, 1)
    net = tn.terminate(nn.Sequential(nn.Conv2d(66_400, 2, 1), nn.ReLU()), x, bias_first=True).eval()
    (layer,) = terminating_layers(net).values()
    layer.set_checks([tn.Check(bits=8)])
    engine = tn.compile(net, x, choices={"0": "terminating"})
    assert "sums of more than 66,311 bytes" in engine.operations()["0"]
    close(engine(x), by_torch(net, x))


@pytest.mark.parametrize("budget", [1.0, 0.6, 0.15])
@pytest.mark.parametrize("profile", ["all-one", "linear"])
def test_rounded_sums_at_every_budget(budget: float, profile: str) -> None:
    torch.manual_seed(1)
    x = torch.rand(3, 3, 20, 20) - 0.2
    model = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 30, 3), nn.ReLU())
    net = tn.terminate(tn.taper(model, x, profile=profile, keep=["2"]), x, bias_first=True).eval()
    for layer in terminating_layers(net).values():
        layer.set_checks([tn.Check(bits=8)])
    with net.at(budget):  # type: ignore[operator]
        expected = by_torch(net, x)
    # A last bit of the first layer's outputs may round otherwise in the second, where sums are near zero.
    choices = dict.fromkeys(terminating_layers(net.model), "terminating")  # type: ignore[arg-type]
    close(tn.compile(net, choices=choices)(x, budget=budget), expected, 5e-3)


def test_the_orders_inputs_must_be_measured() -> None:
    x = torch.rand(1, 3, 32, 32)
    net = tn.terminate(tn.zoo.create("c10net"), x, order="expected")
    for layer in terminating_layers(net).values():
        layer.set_checks([tn.Check(share=0.1)])
    with pytest.raises(ConfigError, match="measure_inputs"):
        tn.compile(net, x)


def test_a_layer_whose_negative_outputs_matter_runs_through_torch() -> None:
    torch.manual_seed(2)
    layer, x = TerminatingConv2d(3, 8, 3), torch.randn(2, 3, 8, 8)
    layer.set_checks([tn.Check(share=0.3)])
    model = nn.Sequential(layer, nn.Sigmoid())
    engine = tn.compile(model, x)
    assert engine.operations()["0"].startswith("torch")
    close(engine(x), by_torch(model, x))


def test_choices_are_timed_kept_and_given_again() -> None:
    torch.manual_seed(3)
    x = torch.rand(2, 3, 32, 32)
    net = tn.terminate(tn.zoo.create("c10net"), x).eval()
    layers = terminating_layers(net)
    for layer in layers.values():
        # It never stops, and the partial sums of nearly all terms come on top of the full ones.
        layer.set_checks([tn.Check(share=0.9, threshold=-1e9)])
    engine = tn.compile(net, x, calibration=x)
    assert engine.choices == dict.fromkeys(layers, "dense")
    again = tn.compile(net, x, choices=json.loads(json.dumps(engine.choices)))
    assert again.choices == engine.choices
    assert again.operations() == engine.operations()
    close(again(x), by_torch(net, x))
    forced = tn.compile(net, x, choices={"conv2": "terminating"}, calibration=x)
    assert forced.choices == {**engine.choices, "conv2": "terminating"}
    with pytest.raises(ConfigError, match="unknown choice 'fast'"):
        tn.compile(net, x, choices={"conv2": "fast"})


@pytest.mark.parametrize("gradient", ["exact", "gated"])
@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_layer_chosen_dense_computes_everything(groups: int, gradient: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=groups), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2 * groups), nn.MaxPool2d(2), nn.ReLU()
    ).eval()  # fmt: skip
    x = torch.randn(2, 4, 12, 12)
    net = tn.terminate(model, x, gradient=gradient).eval()
    layers = terminating_layers(net)
    for layer in layers.values():
        layer.set_checks([tn.Check(share=0.3)])
    engine = tn.compile(net, x, choices=dict.fromkeys(layers, "dense"))
    close(engine(x), by_torch(model, x))
    assert not [k for k in engine.operations().values() if k.startswith("torch")]
    close(tn.compile(net, x)(x), by_torch(net, x))


def test_what_torch_runs_is_dense_where_it_is_chosen_so() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 10, 10)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.GroupNorm(1, 8), nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
    plain = tn.taper(nn.Sequential(*list(model)[:2], nn.GELU(), *list(model)[3:]), x).eval()
    net = tn.terminate(plain, x).eval()
    layers = terminating_layers(net)
    for layer in layers.values():
        layer.set_checks([tn.Check(share=0.3)])
    engine = tn.compile(net, x, choices={path[6:]: "dense" for path in layers})
    for budget in (1.0, 0.5):
        with plain.at(budget):
            close(engine(x, budget=budget), by_torch(plain, x))


def test_negative_outputs_that_matter_are_computed_where_dense_is_chosen() -> None:
    torch.manual_seed(0)
    layer, x = TerminatingConv2d(3, 8, 3), torch.randn(2, 3, 10, 10)
    net = nn.Sequential(layer, nn.AvgPool2d(2)).eval()
    expected = by_torch(net, x)
    layer.set_checks([tn.Check(share=0.3)])
    engine = tn.compile(net, x, choices={"0": "dense"})
    close(engine(x), expected)
    assert engine.operations()["0"] == "dense"


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_least_whole_number_that_reaches_a_threshold_goes_on(kernels: str) -> None:
    """Rounded, the first pixel's sum is 128 steps of 0.01, and a threshold of 128.5 steps stops it."""
    conv = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        conv.weight[:] = torch.tensor([1.27, 0.006]).view(1, 2, 1, 1)
    x = torch.tensor([[1.0, 255.0, 0.0], [1.0, 0.0, 0.0]]).view(1, 2, 1, 3)
    net = tn.terminate(nn.Sequential(conv, nn.ReLU()), x).eval()
    (layer,) = terminating_layers(net).values()
    for threshold, first in ((1.285, 1.28), (1.275, 1.276)):
        layer.set_checks([tn.Check(bits=8, threshold=threshold)])
        expected = torch.tensor([first, 255 * 1.27, 0.0]).view(1, 1, 1, 3)
        close(by_torch(net, x), expected)
        close(tn.compile(net, x, kernels=kernels, choices={"0": "terminating"})(x), expected, 1e-6)
