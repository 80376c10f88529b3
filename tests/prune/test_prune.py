"""The pruning baselines: which filters go, and that what is left computes what it should."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, LinearRegression
from torch import Tensor, nn

from tapernet import zoo
from tapernet.data import ImageData
from tapernet.errors import ConfigError, DataError, PruningError
from tapernet.measure.macs import total_macs
from tapernet.prune import PRUNERS, prune_filters
from tapernet.prune.cp import _at_places, _Sums, choose_channels, rebuild

SHAPE = (3, 12, 12)


def images(n: int = 40) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def network(name: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return zoo.create(name, input_shape=SHAPE, classes=7, **arguments).eval()


# --- every method ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(PRUNERS))
@pytest.mark.parametrize("name", ["c10net", "nin"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_ratio_leaves_a_smaller_plain_network(method: str, name: str, batch_norm: bool) -> None:
    model = network(name, batch_norm=batch_norm)
    before = copy.deepcopy(model.state_dict())
    smaller = prune_filters(model, images(), method=method, ratio=0.5)
    convolutions = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    last = [] if name == "c10net" else convolutions[-1:]
    assert smaller.kept == {path: m.out_channels // 2 for path, m in convolutions if (path, m) not in last}
    for path, conv in convolutions[:-1]:
        assert smaller.get_submodule(path).out_channels == conv.out_channels // 2
    assert smaller(images()).shape == (40, 7)
    assert total_macs(smaller, images()[0]).usual < 0.4 * total_macs(model, images()[0]).usual
    # The model itself is as it was.
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", list(PRUNERS))
def test_nothing_left_out_is_the_same_network(method: str) -> None:
    model = network("c10net")
    assert torch.equal(prune_filters(model, images(), method=method, ratio=0)(images()), model(images()))


@pytest.mark.parametrize("method", list(PRUNERS))
def test_dead_filters_go_first_and_unnoticed(method: str) -> None:
    model = network("c10net")
    with torch.no_grad():
        for conv, dead in ((model.conv1, slice(0, 10)), (model.conv2, slice(20, 32)), (model.conv3, slice(5, 25))):
            conv.weight[dead] = 0
            conv.bias[dead] = -1
    smaller = prune_filters(model, images(), method=method, keep={"conv1": 22, "conv2": 20, "conv3": 44})
    assert torch.equal(smaller.conv1.weight, model.conv1.weight[10:])
    assert torch.allclose(smaller(images()), model(images()), atol=2e-5)


@pytest.mark.parametrize("method", list(PRUNERS))
def test_one_layer_alone(method: str) -> None:
    smaller = prune_filters(network("c10net"), images(), method=method, ratio={"conv2": 0.25})
    assert smaller.kept == {"conv1": 32, "conv2": 24, "conv3": 64}
    assert smaller.conv3.in_channels == 24


@pytest.mark.parametrize("method", list(PRUNERS))
def test_what_is_left_can_be_trained_and_pruned_again(method: str) -> None:
    smaller = prune_filters(network("c10net", batch_norm=True), images(), method=method, ratio=0.5).train()
    smaller(images()).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in smaller.parameters())
    assert prune_filters(smaller, images(), method=method, ratio=0.5).kept["conv1"] == 8


@pytest.mark.parametrize("method", list(PRUNERS))
@pytest.mark.parametrize("training", [True, False])
def test_mode_and_statistics_are_left_alone(method: str, training: bool) -> None:
    model = network("c10net", batch_norm=True).train(training)
    smaller = prune_filters(model, images(), method=method, ratio=0.5)
    assert all(m.training == training for m in [*model.modules(), *smaller.modules()])
    assert torch.equal(smaller.bn1.running_mean, torch.zeros(16))


@pytest.mark.parametrize("method", list(PRUNERS))
def test_a_data_set_serves_as_well(method: str) -> None:
    data = ImageData(images(), torch.zeros(40, dtype=torch.long), ("a",))
    a, b = (prune_filters(network("c10net"), d, method=method, ratio=0.5) for d in (data, images()))
    assert torch.equal(a(images()), b(images()))


# --- PFEC ------------------------------------------------------------------------------------------------------------


def test_pfec_keeps_the_filters_of_greatest_norm() -> None:
    model = network("c10net")
    smaller = prune_filters(model, images(), method="pfec", ratio=0.4)
    norms = np.abs(model.conv2.weight.detach().numpy()).sum((1, 2, 3))
    kept = sorted(np.argsort(norms)[-20:])
    assert smaller.kept["conv2"] == 20
    assert torch.equal(smaller.conv2.bias, model.conv2.bias[kept])


def test_pfec_computes_what_zeroed_filters_compute() -> None:
    model = network("nin")
    smaller, zeroed = prune_filters(model, images(), method="pfec", ratio=0.3), copy.deepcopy(model)
    with torch.no_grad():
        for path, count in smaller.kept.items():
            conv = zeroed.get_submodule(path)
            gone = conv.weight.abs().sum((1, 2, 3)).argsort()[: conv.out_channels - count]
            conv.weight[gone], conv.bias[gone] = 0, 0
    assert torch.allclose(smaller(images()), zeroed(images()), atol=1e-6)


def test_pfec_greedy_does_not_count_inputs_that_are_gone() -> None:
    model = network("c10net")
    first = model.conv1.weight.abs().sum((1, 2, 3)).argsort()
    smaller = prune_filters(model, images(), method="pfec", ratio=0.5, greedy=True)
    norms = model.conv2.weight[:, first[16:]].abs().sum((1, 2, 3))
    assert torch.equal(smaller.conv2.bias, model.conv2.bias[norms.argsort()[16:].sort().values])


# --- CP --------------------------------------------------------------------------------------------------------------


def channel_problem(taps: int = 4) -> tuple[np.ndarray, np.ndarray, Tensor, _Sums]:
    """Inputs (S, C, P), outputs (S, O), weights (O, C, P) and the sums over them."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(300, 8, taps)) + rng.normal(size=(300, 1, 1)), 0)
    weight = rng.normal(size=(5, 8, taps)) * np.linspace(0.2, 1.5, 8)[:, None]
    y = np.einsum("scp,ocp->so", x, weight) + rng.normal(size=5)
    halves = [(torch.tensor(x[i : i + 150]).flatten(1), torch.tensor(y[i : i + 150])) for i in (0, 150)]
    return x, y, torch.tensor(weight), _Sums.over(iter(halves), 8, centred=True)


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_cp_chooses_the_channels_of_the_lasso(count: int) -> None:
    x, y, weight, sums = channel_problem()
    parts = np.einsum("scp,ocp->soc", x, weight.numpy())
    parts -= parts.mean(0)
    z, target = parts.reshape(-1, 8), (y - y.mean(0)).ravel()
    # Coordinate descent on the samples themselves, its penalty lowered until as many channels have a coefficient.
    for alpha in np.geomspace(np.abs(z.T @ target).max() / len(z), 1e-6, 400):
        found = np.flatnonzero(Lasso(alpha=alpha, fit_intercept=False, max_iter=100_000).fit(z, target).coef_)
        if len(found) >= count:
            break
    assert len(found) == count
    assert choose_channels(sums, weight, count).tolist() == found.tolist()


def test_cp_rebuilds_by_least_squares() -> None:
    x, y, weight, sums = channel_problem()
    chosen = torch.tensor([1, 2, 5, 7])
    new, bias = rebuild(sums, weight, chosen, ridge=0.0)
    expected = LinearRegression().fit(x[:, chosen.numpy()].reshape(len(x), -1), y)
    assert np.allclose(new.flatten(1).numpy(), expected.coef_, atol=1e-6)
    assert np.allclose(bias.numpy(), expected.intercept_, atol=1e-6)


def test_cp_does_without_a_bias() -> None:
    x, y, weight, _ = channel_problem()
    sums = _Sums.over(iter([(torch.tensor(x).flatten(1), torch.tensor(y))]), 8, centred=False)
    new, bias = rebuild(sums, weight, torch.arange(6), ridge=0.0)
    expected = LinearRegression(fit_intercept=False).fit(x[:, :6].reshape(len(x), -1), y)
    assert np.allclose(new.flatten(1).numpy(), expected.coef_, atol=1e-6)
    assert not bias.any()


def test_cp_keeps_as_many_as_asked_though_fewer_matter() -> None:
    x, _, weight, _ = channel_problem()
    weight[:, 3:] = 0
    y = np.einsum("scp,ocp->so", x, weight.numpy())
    sums = _Sums.over(iter([(torch.tensor(x).flatten(1), torch.tensor(y))]), 8, centred=True)
    chosen = choose_channels(sums, weight, 6).tolist()
    assert len(chosen) == len(set(chosen)) == 6
    assert chosen[:3] == [0, 1, 2]


def test_cp_gives_the_weights_of_what_goes_to_its_twins() -> None:
    model = network("c10net")
    with torch.no_grad():
        model.conv1.weight[16:], model.conv1.bias[16:] = model.conv1.weight[:16], model.conv1.bias[:16]
        model.conv2.weight[:, 16:] *= 0.1
    smaller = prune_filters(model, images(), method="cp", keep={"conv1": 16}, places=100)
    assert torch.equal(smaller.conv1.weight, model.conv1.weight[:16])
    assert torch.allclose(smaller.conv2.weight, model.conv2.weight[:, :16] + model.conv2.weight[:, 16:], atol=1e-4)
    assert torch.allclose(smaller(images()), model(images()), atol=1e-5)


def test_cp_loses_less_than_leaving_filters_out() -> None:
    model = network("c10net")
    error = {}
    for method in ("pfec", "cp"):
        smaller = prune_filters(model, images(), method=method, ratio=0.3)
        error[method] = (smaller(images()) - model(images())).square().mean().item()
    assert error["cp"] < 0.5 * error["pfec"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 1},
        {"padding": "same"},
        {"stride": 2, "padding": (0, 1)},
        {"dilation": 2},
        {"kernel_size": (1, 3)},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": 2, "padding_mode": "reflect"},
    ],
)
def test_samples_are_what_the_convolution_multiplies(arguments: dict[str, object]) -> None:
    conv = nn.Conv2d(3, 4, **{"kernel_size": 3, **arguments})
    x = images(5)
    y = conv(x).detach()
    inputs, outputs = _at_places(conv, x, y, 6, torch.Generator().manual_seed(0))
    assert inputs.shape == (30, conv.weight[0].numel())
    assert torch.allclose(F.linear(inputs, conv.weight.flatten(1), conv.bias), outputs, atol=1e-5)
    assert len(outputs.unique(dim=0)) == 30


def test_cp_is_the_same_for_the_same_seed_and_takes_no_more_than_the_sample() -> None:
    model, many = network("c10net"), images(100)
    a, b, c, d = (
        prune_filters(model, many[:n], method="cp", ratio=0.5, sample=sample, seed=seed).fc1.weight
        for n, sample, seed in ((100, 25, 0), (100, 25, 0), (100, 25, 1), (97, 25, 0))
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    # At a distance of four, images 97 to 99 are not among the 25.
    assert torch.equal(a, d)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1, "half", True, float("nan"), {"conv1": 1.5}])
def test_a_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"\[0, 1\)"):
        prune_filters(network("c10net"), images(), method="pfec", ratio=ratio)


@pytest.mark.parametrize("count", [0, 33, 1.5, True])
def test_a_count_out_of_range(count: int) -> None:
    with pytest.raises(ConfigError, match="conv1 has 32 filters"):
        prune_filters(network("c10net"), images(), method="pfec", keep={"conv1": count})


@pytest.mark.parametrize("arguments", [{}, {"ratio": 0.5, "keep": {"conv1": 3}}])
def test_both_or_neither(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="either"):
        prune_filters(network("c10net"), images(), method="pfec", **arguments)


@pytest.mark.parametrize("arguments", [{"ratio": {"conv9": 0.1}}, {"keep": {"fc1": 10}}])
def test_an_unknown_layer(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="valid: conv1, conv2, conv3"):
        prune_filters(network("c10net"), images(), method="pfec", **arguments)


def test_the_last_convolution_of_nin_is_the_output() -> None:
    with pytest.raises(ConfigError, match="'conv9'"):
        prune_filters(network("nin"), images(), method="pfec", keep={"conv9": 3})


def test_an_unknown_method() -> None:
    with pytest.raises(ConfigError, match="valid: cp, pfec"):
        prune_filters(network("c10net"), images(), method="lasso", ratio=0.1)


@pytest.mark.parametrize("method", list(PRUNERS))
def test_an_unknown_option(method: str) -> None:
    with pytest.raises(ConfigError, match=f"option of {method} 'samples'"):
        prune_filters(network("c10net"), images(), method=method, ratio=0.1, samples=3)


def test_zero_images() -> None:
    with pytest.raises(DataError, match="zero images"):
        prune_filters(network("c10net"), images(0), method="cp", ratio=0.1)


def test_images_of_another_shape() -> None:
    with pytest.raises(PruningError, match="does not run"):
        prune_filters(network("c10net"), images()[:, :2], method="pfec", ratio=0.1)


def test_a_model_without_convolutions() -> None:
    with pytest.raises(PruningError, match="no convolution"):
        prune_filters(nn.Sequential(nn.Flatten(), nn.Linear(432, 7)), images(), method="pfec", ratio=0.1)


class Tied(nn.Module):
    """Two convolutions whose outputs are summed, or one that two layers read."""

    def __init__(self, summed: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3 if summed else 4, 4, 1), nn.Conv2d(4, 4, 1)
        self.summed = summed

    def forward(self, x: Tensor) -> Tensor:
        if self.summed:
            return self.c(self.a(x) + self.b(x)).mean((2, 3))
        return torch.cat([self.b(self.a(x)), self.c(self.a(x))], 1).mean((2, 3))


@pytest.mark.parametrize(("summed", "message"), [(True, "tied"), (False, "feed 2 layers")])
def test_filters_that_are_tied(summed: bool, message: str) -> None:
    with pytest.raises(PruningError, match=f"a: .*{message}"):
        prune_filters(Tied(summed), images(), method="pfec", ratio=0.1)


class Moving(nn.Module):
    """A convolution whose channels `move` takes to a linear layer."""

    def __init__(self, move: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.move, self.a, self.fc = move, nn.Conv2d(3, 8, 3, padding=1), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.move(F.relu(self.a(x))))
        return out


@pytest.mark.parametrize("method", list(PRUNERS))
@pytest.mark.parametrize(
    ("move", "width", "where"),
    [
        (lambda y: y.permute(0, 2, 3, 1).flatten(1), 8 * 144, "flatten"),
        (lambda y: F.channel_shuffle(y, 2).mean((2, 3)), 8, "channel_shuffle"),
        (lambda y: y.flip(1).mean((2, 3)), 8, "flip"),
        (lambda y: y.cumsum(1).mean((2, 3)), 8, "cumsum"),
    ],
    ids=["h, w, c", "shuffle", "flip", "sum over channels"],
)
def test_channels_that_move_are_refused(
    method: str, move: Callable[[Tensor], Tensor], width: int, where: str
) -> None:
    with pytest.raises(PruningError, match=f"{where}: .*cannot be pruned$"):
        prune_filters(Moving(move, width), images(), method=method, ratio=0.5)


def between(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers, nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(),
                         nn.Linear(600, 3))  # fmt: skip


@pytest.mark.parametrize("method", list(PRUNERS))
def test_whole_groups_alone_are_normalised_or_convolved(method: str) -> None:
    for tied in (nn.GroupNorm(4, 8), nn.Conv2d(8, 8, 3, padding=1, groups=2)):
        with pytest.raises(PruningError, match="0: its filters are tied"):
            prune_filters(between(tied), images(), method=method, ratio=0.25)
    for layer in (nn.LayerNorm((8, 12, 12)), nn.GroupNorm(1, 8), nn.PReLU(8)):
        assert prune_filters(between(layer), images(), method=method, keep={"0": 6})(images()).shape == (40, 3)


class Concatenated(nn.Module):
    """Two convolutions that a third one reads side by side, the second one in front."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(14, 5, 3)
        self.norm = nn.BatchNorm2d(14)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.norm(torch.cat([self.b(x), self.a(x)], 1)).relu()).mean((2, 3))


def test_a_concatenation_loses_the_places_of_the_filters() -> None:
    model = Concatenated().eval()
    with torch.no_grad():
        model.a.weight[1::2], model.a.bias[1::2] = 0, -1
        model.b.weight[:2], model.b.bias[:2] = 0, -1
    smaller = prune_filters(model, images(), method="pfec", keep={"a": 4, "b": 4})
    assert smaller.norm.running_mean.shape == (8,)
    assert torch.allclose(smaller(images()), model(images()), atol=1e-6)
    with pytest.raises(PruningError, match="c reads its filters beside"):
        prune_filters(model, images(), method="cp", ratio=0.5)


@pytest.mark.parametrize("method", list(PRUNERS))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_dead_goes_unnoticed_in_any_chain(method: str, data: st.DataObject) -> None:
    """Convolutions, plain and depthwise, norms of single channels, poolings, frozen layers, a flatten or a mean."""
    torch.manual_seed(data.draw(st.integers(0, 99), "seed"))
    layers: list[nn.Module] = []
    channels, dead = 3, {}
    for _ in range(data.draw(st.integers(2, 3), "convolutions")):
        filters = data.draw(st.integers(2, 9), "filters")
        conv = nn.Conv2d(channels, filters, data.draw(st.sampled_from([1, 3]), "kernel"), padding=1)
        gone = torch.randperm(filters)[: data.draw(st.integers(0, filters - 1), "dead")]
        dead[str(len(layers))] = gone
        with torch.no_grad():
            conv.weight[gone], conv.bias[gone] = 0, -1
        layers.append(conv.requires_grad_(data.draw(st.booleans(), "trained")))
        if data.draw(st.booleans(), "norm"):
            norm = nn.BatchNorm2d(filters)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            layers.append(norm)
        layers.append(nn.ReLU())
        if data.draw(st.booleans(), "depthwise"):
            layers.append(nn.Conv2d(filters, filters, 3, padding=1, groups=filters, bias=False))
        if data.draw(st.booleans(), "pooling"):
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        channels = filters
    layers += [nn.Flatten()] if data.draw(st.booleans(), "flatten") else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    width = nn.Sequential(*layers)(images(1)).shape[1]
    model = nn.Sequential(*layers, nn.Linear(width, 4)).eval()
    keep = {path: model.get_submodule(path).out_channels - len(gone) for path, gone in dead.items()}
    smaller = prune_filters(model, images(6), method=method, keep=keep)
    assert smaller.kept == keep
    torch.testing.assert_close(smaller(images(6)), model(images(6)), rtol=1e-3, atol=1e-4)
    assert [p.requires_grad for p in smaller.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("dead", ["inputs", "reader"])
def test_cp_where_nothing_contributes(dead: str) -> None:
    model = network("c10net")
    with torch.no_grad():
        if dead == "inputs":
            model.conv1.bias.fill_(-100.0)
        else:
            model.conv2.weight.zero_()
    smaller = prune_filters(model, images(), method="cp", keep={"conv1": 5})
    assert torch.allclose(smaller(images()), model(images()), rtol=0, atol=1e-5)


def test_no_filters_to_keep_is_nothing_asked() -> None:
    model = network("c10net")
    assert torch.equal(prune_filters(model, images(), method="pfec", keep={})(images()), model(images()))
