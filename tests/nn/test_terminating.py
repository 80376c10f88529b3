"""The terminating convolution against a loop that does one product after another."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tapernet.errors import ConfigError, DataError, FileError
from tapernet.nn import terminating
from tapernet.nn.check import Check
from tapernet.nn.group import ChannelGroup, Layout, Span
from tapernet.nn.learning import learning_thresholds
from tapernet.nn.order import Termination
from tapernet.nn.prefix import PrefixConv2d
from tapernet.nn.terminating import Outcome, TerminatingConv2d, TerminatingPrefixConv2d

IMAGE = 6


# --- the truth: a loop in plain Python -------------------------------------------------------------------------------


@dataclass
class Truth:
    emitted: float
    stop: int
    done: int
    full: float


def places(layer: nn.Conv2d, x: Tensor) -> Iterator[tuple[tuple[int, int, int, int], list[float]]]:
    """Every output's index and the inputs under its filter, in the order of the weight's memory."""
    pads = [layer.padding] * 2 if isinstance(layer.padding, str) else list(layer.padding)
    low, high = [], []
    for side in range(2):
        reach = layer.dilation[side] * (layer.kernel_size[side] - 1)
        both = reach if pads[side] == "same" else 0 if pads[side] == "valid" else 2 * pads[side]
        low.append(both // 2)
        high.append(both - both // 2)
    sides = [x.shape[2 + s] + low[s] + high[s] - layer.dilation[s] * (layer.kernel_size[s] - 1) - 1 for s in range(2)]
    per_group = layer.in_channels // layer.groups
    for b in range(len(x)):
        for f in range(layer.out_channels):
            first = f // (layer.out_channels // layer.groups) * per_group
            for i in range(sides[0] // layer.stride[0] + 1):
                for j in range(sides[1] // layer.stride[1] + 1):
                    under = []
                    for k in range(first, first + per_group):
                        for p in range(layer.kernel_size[0]):
                            for q in range(layer.kernel_size[1]):
                                row = i * layer.stride[0] + p * layer.dilation[0] - low[0]
                                column = j * layer.stride[1] + q * layer.dilation[1] - low[1]
                                inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
                                under.append(x[b, k, row, column].item() if inside else 0.0)
                    yield (b, f, i, j), under


def one_by_one(layer: TerminatingConv2d, f: int, under: list[float]) -> Truth:
    """One output, its products added one after another."""
    weights = layer.weight[f].flatten().tolist()
    bias = 0.0 if layer.bias is None else layer.bias[f].item()
    terms = len(weights) + (layer.bias is not None)
    order = layer.options.order
    area = layer.kernel_size[0] * layer.kernel_size[1]
    first = f // (layer.out_channels // layer.groups) * (layer.in_channels // layer.groups)
    means = [layer.input_mean[first + t // area].item() for t in range(len(weights))]
    key = {
        "magnitude": lambda t: -abs(weights[t]),
        "expected": lambda t: -abs(weights[t]) * means[t],
        "exact": lambda t: (weights[t] <= 0, -abs(weights[t])),
    }[order]
    taps = sorted(range(len(weights)), key=key)
    full = bias + sum(weights[t] * under[t] for t in taps)
    total = bias if layer.options.bias_first or order == "exact" else 0.0
    if order == "exact":
        positive = sum(w > 0 for w in weights)
        for c in range(terms - 1):
            if c >= positive and total < 0:
                return Truth(total, 0, c + 1, full)
            total += weights[taps[c]] * under[taps[c]]
        return Truth(full, -1, terms, full)
    checks = [
        (c.positions(layer.terms, layer.terms, layer.out_channels)[f], c.thresholds(layer.out_channels)[f])
        for c in layer.checks
    ]
    for done, t in enumerate(taps, start=1):
        total += weights[t] * under[t]
        for number, (position, threshold) in enumerate(checks):
            if done == position < terms and total < threshold:
                return Truth(total, number, done + 1, full)
    return Truth(full, -1, terms, full)


def assert_equals_the_loop(layer: TerminatingConv2d, x: Tensor) -> Outcome:
    seen: list[Outcome] = []
    plain = layer(x)
    layer.observer = seen.append
    observed = layer(x)
    layer.observer = None
    assert torch.equal(plain, observed)
    outcome = seen[0]
    count = 0
    for index, under in places(layer, x):
        truth = one_by_one(layer, index[1], under)
        emitted = truth.emitted
        if layer.options.order == "exact" or layer.options.rectifies:
            emitted = max(emitted, 0.0)
            assert max(plain[index].item(), 0.0) == pytest.approx(emitted, abs=1e-9)
        else:
            assert plain[index].item() == pytest.approx(emitted, abs=1e-9)
        assert outcome.full[index].item() == pytest.approx(truth.full, abs=1e-9)
        assert (outcome.stops[index].item(), outcome.done[index].item()) == (truth.stop, truth.done)
        count += 1
    assert count == plain.numel()
    assert outcome.terms == layer.weight[0].numel() + (layer.bias is not None)
    return outcome


# --- layers and checks of any shape ----------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[dict[str, object], int]:
    """Arguments of a small convolution, and a seed."""
    groups = draw(st.sampled_from([1, 1, 2]))
    padding = draw(st.sampled_from([0, 1, 2, (0, 2), "same", "valid"]))
    return {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel_size": draw(st.sampled_from([1, 2, 3, (1, 3), (3, 2)])),
        "stride": 1 if padding == "same" else draw(st.sampled_from([1, 2, (2, 1)])),
        "padding": padding,
        "dilation": draw(st.sampled_from([1, 2, (1, 2)])),
        "groups": groups,
        "bias": draw(st.booleans()),
    }, draw(st.integers(0, 2**16))


@st.composite
def checks_for(draw: st.DrawFn, terms: int, filters: int) -> list[Check]:
    """Up to three checks at increasing positions, shared or per filter."""
    count = draw(st.integers(0, min(3, terms)))
    per_filter = [sorted(draw(st.permutations(range(1, terms + 1)))[:count]) for _ in range(filters)]
    shared = draw(st.booleans())
    threshold = st.sampled_from([0.0, 0.0, -0.3, 0.2])
    return [
        Check(
            position=per_filter[0][i] if shared else [row[i] for row in per_filter],
            threshold=draw(threshold) if draw(st.booleans()) else draw(st.tuples(*[threshold] * filters)),
        )
        for i in range(count)
    ]


def build(arguments: dict[str, object], seed: int, options: Termination) -> tuple[TerminatingConv2d, Tensor]:
    torch.manual_seed(seed)
    layer = TerminatingConv2d(**arguments, options=options).double()
    x = torch.randn(2, layer.in_channels, IMAGE, IMAGE, dtype=torch.float64)
    layer.input_mean.copy_(torch.rand(layer.in_channels) + 0.1)
    return layer, x.relu() if options.order == "exact" else x


@given(convolutions(), st.sampled_from(["magnitude", "expected"]), st.booleans(), st.data())
@settings(max_examples=40, deadline=None)
def test_output_and_counts_equal_the_loop(
    convolution: tuple[dict[str, object], int], order: str, bias_first: bool, data: st.DataObject
) -> None:
    layer, x = build(*convolution, Termination(order=order, bias_first=bias_first))
    layer.set_checks(data.draw(checks_for(layer.terms, layer.out_channels)))
    assert_equals_the_loop(layer, x)


@given(convolutions())
@settings(max_examples=30, deadline=None)
def test_exact_order_equals_the_loop_and_the_plain_convolution(convolution: tuple[dict[str, object], int]) -> None:
    layer, x = build(*convolution, Termination(order="exact"))
    assert_equals_the_loop(layer, x)
    assert torch.equal(layer(x), layer_as_plain(layer)(x))


def layer_as_plain(layer: TerminatingConv2d) -> nn.Conv2d:
    plain = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, layer.bias is not None,
    ).to(layer.weight)  # fmt: skip
    plain.load_state_dict(dict(layer.named_parameters()))
    return plain


def test_no_checks_is_the_plain_convolution() -> None:
    layer, x = build({"in_channels": 2, "out_channels": 3, "kernel_size": 3}, 0, Termination())
    assert torch.equal(layer(x), layer_as_plain(layer)(x))


@pytest.mark.parametrize("gradient", ["straight-through", "gated"])
def test_layers_that_rectify_emit_the_relu_of_the_same(gradient: str) -> None:
    layer, x = build({"in_channels": 2, "out_channels": 3, "kernel_size": 3}, 1, Termination(gradient=gradient))
    layer.set_checks([Check(position=4), Check(position=9, threshold=0.1)])
    outcome = assert_equals_the_loop(layer, x)
    assert outcome.stopped.any()
    assert not outcome.stopped.all()


def test_exact_counts_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = build({"in_channels": 2, "out_channels": 3, "kernel_size": 3}, 2, Termination(order="exact"))
    monkeypatch.setattr(terminating, "UNIT_BYTES", 1)
    assert_equals_the_loop(layer, x)


def test_ties_are_broken_by_the_place_in_memory() -> None:
    layer, x = build({"in_channels": 1, "out_channels": 2, "kernel_size": 3}, 3, Termination())
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sign())
    layer.set_checks([Check(position=4)])
    assert_equals_the_loop(layer, x)


def test_the_order_follows_the_weights() -> None:
    layer, x = build({"in_channels": 2, "out_channels": 2, "kernel_size": 3}, 4, Termination())
    layer.set_checks([Check(position=3)])
    layer.eval()(x)
    layer.weight.data.copy_(torch.randn_like(layer.weight))  # past autograd's version counter on purpose
    assert_equals_the_loop(layer, x)


# --- positions and thresholds ----------------------------------------------------------------------------------------


@given(st.integers(2, 5000), st.integers(1, 100))
def test_a_share_is_floored_as_in_whole_numbers(terms: int, percent: int) -> None:
    assert Check(share=percent / 100).positions(terms, terms, 1) == [max(1, terms * percent // 100)]


def test_the_papers_positions() -> None:
    # conv1 of C10-Net has 76 terms: 3.8 and 24.3 round down.
    assert [Check(share=v).positions(76, 76, 2) for v in (0.05, 0.32)] == [[3, 3], [24, 24]]


def test_a_position_moves_in_proportion_at_a_budget() -> None:
    assert Check(position=24).positions(76, 38, 1) == [12]
    assert Check(position=1).positions(76, 38, 1) == [1]
    assert Check(position=76).positions(76, 38, 1) == [38]
    assert Check(position=5).positions(9, 5, 1) == [2]  # 25 / 9, rounded down as the paper's floor(n v) is


@pytest.mark.parametrize("position", [0, -1, 20, [3, 20]])
def test_a_position_outside_the_filter(position: int | list[int]) -> None:
    layer = TerminatingConv2d(2, 2, 3)
    with pytest.raises(ConfigError, match=r"1\.\.19"):
        layer.set_checks([Check(position=position)])
    layer.set_checks([Check(position=19)])


@pytest.mark.parametrize("arguments", [{}, {"position": 1, "share": 0.5}])
def test_a_check_needs_one_place(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="either"):
        Check(**arguments)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, [0.5, 2.0]])
def test_a_share_out_of_range(share: float) -> None:
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        Check(share=share)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("position", v) for v in (1.5, True, "3", [], [1, [2]])),
        *(("share", v) for v in (math.nan, "half", [])),
        *(("threshold", v) for v in (math.nan, math.inf, [0.0, None])),
    ],
)
def test_values_that_are_no_numbers(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        Check(**({"share": 0.5} if name == "threshold" else {}), **{name: value})


@pytest.mark.parametrize("check", [{"position": [1, 2, 3]}, {"share": [0.1]}, {"share": 0.5, "threshold": [0.0] * 3}])
def test_not_one_number_for_each_filter(check: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="2 filters"):
        TerminatingConv2d(2, 2, 3).set_checks([Check(**check)])


def test_checks_in_the_wrong_order() -> None:
    layer, (first, never, third) = (
        TerminatingConv2d(2, 2, 3),
        (Check(position=[5, 6]), Check(position=19), Check(position=6)),
    )
    with pytest.raises(ConfigError, match="increase"):
        layer.set_checks([first, never, third])
    layer.set_checks([never, first])


def test_checks_on_the_exact_order() -> None:
    with pytest.raises(ConfigError, match="takes no checks"):
        TerminatingConv2d(2, 2, 3, options=Termination(order="exact")).set_checks([Check(position=5)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "magnitud"}, "did you mean 'magnitude'"),
        ({"gradient": "exakt"}, "did you mean 'exact'"),
        ({"order": "exact", "gradient": "straight-through"}, "straight-through"),
    ],
)
def test_bad_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Termination(**options)


def test_another_padding_mode() -> None:
    with pytest.raises(ConfigError, match="reflect"):
        TerminatingConv2d(2, 2, 3, padding=1, padding_mode="reflect")


def test_expected_order_without_measured_inputs() -> None:
    layer = TerminatingConv2d(2, 2, 3, options=Termination(order="expected"))
    layer.set_checks([Check(share=0.5)])
    with pytest.raises(ConfigError, match="measure_inputs"):
        layer(torch.rand(1, 2, 5, 5))


def test_negative_inputs_in_the_exact_order() -> None:
    layer = TerminatingConv2d(2, 2, 3, options=Termination(order="exact"))
    with pytest.raises(DataError, match="not negative"):
        layer(-torch.rand(1, 2, 5, 5))


# --- gradients -------------------------------------------------------------------------------------------------------


def checked(**options: object) -> tuple[TerminatingConv2d, Tensor]:
    layer, x = build({"in_channels": 2, "out_channels": 3, "kernel_size": 3}, 5, Termination(**options))
    layer.set_checks([Check(position=4, threshold=0.1), Check(position=9)])
    return layer, x.requires_grad_()


@pytest.mark.parametrize("bias_first", [False, True])
def test_exact_gradient(bias_first: bool) -> None:
    layer, x = checked(bias_first=bias_first)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)
        return out

    assert torch.autograd.gradcheck(run, (x, layer.weight, layer.bias))


@pytest.mark.parametrize("offset", [0.0, 1e-6, -1e-6])
def test_in_mixed_precision_sums_are_compared_with_the_threshold_as_it_is(offset: float) -> None:
    """A threshold at some of the sums, or between them and the next number of their type, on either side of zero."""
    torch.manual_seed(0)
    layer = TerminatingConv2d(4, 2, 3, bias=False)
    x = torch.randn(2, 4, 8, 8)
    seen: list[Outcome] = []
    layer.observer = seen.append
    flat = layer.weight.detach().abs().flatten(1)
    early = torch.zeros_like(flat).scatter(1, flat.argsort(1, descending=True)[:, :9], 1.0).view_as(layer.weight)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        u = F.conv2d(x, layer.weight * early)
        assert u.dtype == torch.bfloat16
        for value in u.flatten()[::7].tolist():
            threshold = value * (1 + offset)
            layer.set_checks([Check(position=9, threshold=threshold)])
            layer(x)
            assert torch.equal(seen.pop().stopped, u.double() < torch.tensor(threshold).double())


def gradients(layer: nn.Module, x: Tensor, head: nn.Module) -> list[Tensor]:
    out = head(layer(x))
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return list(torch.autograd.grad((out * weights).sum(), [x, layer.weight, layer.bias]))


def test_straight_through_gradient_is_that_of_the_plain_layer_and_its_relu() -> None:
    layer, x = checked(gradient="straight-through")
    plain = gradients(layer_as_plain(layer), x, nn.ReLU())
    assert all(torch.equal(a, b) for a, b in zip(gradients(layer, x, nn.Identity()), plain, strict=True))


@pytest.mark.parametrize("bias_first", [False, True])
def test_gated_gradient_is_that_of_the_full_sum_times_a_soft_gate(bias_first: bool) -> None:
    """Two checks, against autograd through max(u, 0) (1 - s_1) (1 - s_2), written anew; what u gets is gated hard."""
    layer, x = checked(gradient="gated", bias_first=bias_first)
    layer.set_checks([Check(position=4, threshold=-0.1), Check(position=9)])
    found = gradients(layer, x, nn.Identity())
    full = F.conv2d(x, layer.weight, layer.bias)
    order = layer.weight.detach().abs().flatten(1).argsort(1, descending=True)
    passing, hard = torch.ones_like(full), torch.ones_like(full)
    for position, threshold in ((4, -0.1), (9, 0.0)):
        early = torch.zeros_like(order, dtype=full.dtype).scatter(1, order[:, :position], 1.0).view_as(layer.weight)
        u = F.conv2d(x, layer.weight * early, layer.bias if bias_first else None)
        passing = passing * torch.sigmoid((u - threshold) / (0.1 * u.std()).detach())
        hard = hard * (u >= threshold)
    assert 0 < hard.mean() < 1
    weights = torch.linspace(-1, 2, full.numel(), dtype=full.dtype).view_as(full)
    loss = (weights * (full.relu() * hard + full.relu().detach() * passing)).sum()
    expected = torch.autograd.grad(loss, [x, layer.weight, layer.bias])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("head", [nn.ReLU(), nn.Sequential(nn.MaxPool2d(2), nn.ReLU())], ids=["relu", "pool-relu"])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_rectified_layers_have_the_same_gradient(head: nn.Module, threshold: float) -> None:
    layer, x = checked()
    layer.set_checks([Check(position=4, threshold=threshold), Check(position=9)])
    full = gradients(layer, x, head)
    layer.rectified = True
    assert all(torch.equal(a, b) for a, b in zip(full, gradients(layer, x, head), strict=True))


def test_the_estimate_tends_to_the_share_that_is_done() -> None:
    layer, x = checked()
    layer.temperature = 1e-6
    seen: list[Outcome] = []
    layer.observer = seen.append
    layer(x)
    estimate = layer.take_estimate()
    assert estimate is not None
    total, share = estimate
    assert total == seen[0].done.numel() * 19
    assert share.item() * total == pytest.approx(seen[0].done.sum().item(), rel=1e-4)
    assert layer.take_estimate() is None


def test_the_estimate_falls_along_its_gradient() -> None:
    layer, x = checked()
    layer.temperature = 1.0
    shares = []
    for _ in range(2):
        layer(x)
        _, share = layer.take_estimate() or (0, torch.tensor(math.nan))
        shares.append(share.item())
        (grad,) = torch.autograd.grad(share, [layer.weight])
        with torch.no_grad():
            layer.weight -= 0.1 * grad / grad.norm()
    assert shares[1] < shares[0]


@pytest.mark.parametrize("where", ["eval", "no_grad", "off"])
def test_no_estimate_outside_training(where: str) -> None:
    layer, x = checked()
    layer.temperature = None if where == "off" else 1.0
    layer.train(where != "eval")
    with torch.set_grad_enabled(where != "no_grad"):
        layer(x)
    assert layer.take_estimate() is None


# --- state -----------------------------------------------------------------------------------------------------------


def test_state_dict_holds_options_checks_and_input_means() -> None:
    layer, x = build(
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3}, 6, Termination("expected", bias_first=True)
    )
    layer.set_checks([Check(position=[3, 4, 5], threshold=[0.0, -0.1, 0.2]), Check(share=0.7)])
    state = layer.state_dict()
    assert all(isinstance(v, Tensor) for v in state.values())
    other = TerminatingConv2d(2, 3, 3).double()
    other.load_state_dict(state)
    assert (other.options, other.checks) == (layer.options, layer.checks)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("state", [b"[]", b"not json", b"{}", b'{"options": {"ordr": 1}, "checks": []}'])
def test_a_state_that_is_something_else(state: bytes) -> None:
    with pytest.raises(FileError, match="not the checks"):
        TerminatingConv2d(2, 3, 3).set_extra_state(torch.tensor(list(state), dtype=torch.uint8))


def test_a_state_whose_checks_do_not_fit() -> None:
    layer = TerminatingConv2d(2, 3, 3)
    layer.set_checks([Check(position=19)])
    with pytest.raises(FileError, match=r"1\.\.10"):
        TerminatingConv2d(1, 3, 3).set_extra_state(layer.get_extra_state())


@pytest.mark.parametrize(("before", "after"), [("exact", "gated"), ("gated", "exact"), ("gated", "straight-through")])
def test_a_state_leaves_the_gradient_as_it_is(before: str, after: str) -> None:
    """The ReLU is in the layer or after it, whatever the state comes from."""
    layer, x = checked(gradient=before, bias_first=True)
    other = TerminatingConv2d(2, 3, 3, options=Termination(gradient=after)).double()
    other.load_state_dict(layer.state_dict())
    assert other.options == Termination(bias_first=True, gradient=after)
    assert other.checks == layer.checks
    assert torch.equal(F.relu(other(x)), F.relu(layer(x)))
    assert torch.equal(other(x), F.relu(other(x))) == (after != "exact")


def test_a_copy_is_not_observed() -> None:
    layer, x = checked()
    layer.temperature = 1.0
    layer.observer = lambda _: None
    layer(x)
    twin = copy.deepcopy(layer)
    assert twin.observer is None
    assert twin.take_estimate() is None
    assert torch.equal(twin(x), layer(x))


def test_an_empty_batch_passes() -> None:
    layer, _ = checked()
    assert layer(torch.zeros(0, 2, 6, 6, dtype=torch.float64)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("checks", [[Check(position=4, threshold=0.1)], [Check(bits=8)]], ids=["position", "bits"])
def test_one_image_without_a_batch(checks: list[Check]) -> None:
    layer, x = checked()
    layer.set_checks(checks)
    seen: list[Outcome] = []
    layer.observer = seen.append
    layer.eval()
    assert torch.equal(layer(x[0]), layer(x[:1])[0])
    assert torch.equal(seen[0].saved(), seen[1].saved())


@pytest.mark.parametrize("case", ["equal sums", "one output", "no image"])
def test_sums_that_do_not_vary_leave_no_gradient_without_bounds(case: str) -> None:
    layer = TerminatingConv2d(2, 1, 3, options=Termination(gradient="gated"))
    layer.set_checks([Check(position=4)])
    layer.temperature = 0.1
    x = {
        "equal sums": torch.zeros(2, 2, 6, 6),
        "one output": torch.randn(1, 2, 3, 3),
        "no image": torch.zeros(0, 2, 6, 6),
    }
    with learning_thresholds(layer):
        out = layer(x[case])
        _, share = layer.take_estimate() or (0, torch.tensor(math.nan))
        (out.sum() + share).backward()
        assert layer.threshold_moves is not None
        for learned in (layer.threshold_moves, layer.weight):
            assert learned.grad is not None
            assert learned.grad.abs().max() < 100
    assert 0 <= share <= 1


# --- the prefix layer ------------------------------------------------------------------------------------------------


def prefix_layer(options: Termination, percent: int) -> tuple[TerminatingPrefixConv2d, Tensor]:
    torch.manual_seed(7)
    inputs, outputs = ChannelGroup("a", 6, ["linear"]), ChannelGroup("b", 4, ["linear"])
    conv = PrefixConv2d.of(nn.Conv2d(6, 4, 3, padding=1), Layout((Span(6, inputs),)), Layout((Span(4, outputs),)))
    layer = TerminatingPrefixConv2d.from_conv(conv, options).double()
    layer.input_mean.copy_(torch.rand(6) + 0.1)
    for group in (inputs, outputs):
        group.double().set_percent(percent)
    return layer, torch.rand(2, inputs.kept, IMAGE, IMAGE, dtype=torch.float64)


@pytest.mark.parametrize("order", ["magnitude", "expected", "exact"])
@pytest.mark.parametrize("percent", [100, 50, 20])
def test_a_prefix_layer_does_what_its_extracted_layer_does(order: str, percent: int) -> None:
    layer, x = prefix_layer(Termination(order), percent)
    if order != "exact":
        layer.set_checks([Check(position=[10, 12, 14, 55], threshold=[0.0, 0.1, -0.1, 0.0]), Check(share=0.6)])
    small = layer.extracted()
    assert type(small) is TerminatingConv2d
    assert small.terms == 9 * x.shape[1] + 1
    assert torch.allclose(layer(x), small(x), rtol=0, atol=1e-12)
    outcomes: list[Outcome] = []
    for each in (layer, small):
        each.observer = outcomes.append
        each(x)
    assert torch.equal(outcomes[0].done, outcomes[1].done)
    assert outcomes[0].stopped.any()
    small.observer = None
    assert_equals_the_loop(small, x)


def test_checks_that_meet_at_a_small_budget_are_one_in_the_extracted_layer() -> None:
    layer, x = prefix_layer(Termination(), 20)
    layer.set_checks([
        Check(position=[4, 4, 55, 4], threshold=[0.1, -0.2, 0.0, 0.3]), Check(position=5, threshold=0.05),
        Check(share=0.12, threshold=[0.0, 0.2, 0.1, 0.1]), Check(share=0.8),
    ])  # fmt: skip
    small = layer.extracted()
    assert isinstance(small, TerminatingConv2d)
    assert len(small.checks) == 2
    assert torch.allclose(layer(x), small(x), rtol=0, atol=1e-12)
    assert_equals_the_loop(small, x)


def test_a_layer_is_extracted_in_the_midst_of_training() -> None:
    layer, x = prefix_layer(Termination(gradient="gated"), 50)
    layer.set_checks([Check(position=12)])
    layer.temperature = 1.0
    with learning_thresholds(layer):
        assert layer.threshold_moves is not None
        layer.threshold_moves.data.fill_(0.1)
        layer(x)
        small = layer.extracted()
        assert isinstance(small, TerminatingConv2d)
        assert small.checks[0].threshold == pytest.approx((0.1, 0.1))
        assert torch.allclose(layer(x), small(x), rtol=0, atol=1e-12)


def test_without_checks_a_prefix_layer_is_as_before() -> None:
    layer, x = prefix_layer(Termination(), 50)
    expected = F.conv2d(x * layer.inputs.profile()[:, None, None], layer.weight[:2, :3], layer.bias[:2], padding=1)
    assert torch.allclose(layer(x), expected)


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.data())
def test_the_first_taps_are_those_of_a_stable_sort(rows: list[list[int]], data: st.DataObject) -> None:
    scores = torch.tensor(rows, dtype=torch.float32)  # few values, many ties
    counts = torch.tensor(data.draw(st.lists(st.integers(1, 6), min_size=len(rows), max_size=len(rows))))
    for row, count, found in zip(rows, counts.tolist(), terminating._highest(scores, counts), strict=True):
        first = sorted(range(6), key=lambda i: (-row[i], i))[:count]
        assert found.tolist() == [i in first for i in range(6)]
