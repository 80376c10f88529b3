"""Every network, budget and instruction set against torch."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from engine_reference import KERNELS, by_torch, close, needs_kernels
from torch import Tensor, nn

import tapernet as tn
from tapernet.errors import ConfigError
from tapernet.nn.net import Budget
from tapernet.nn.terminating import terminating_layers

pytestmark = needs_kernels

IMAGES = {
    "mlp": (1, 28, 28),
    "c10net": (3, 32, 32),
    "nin": (3, 16, 16),
    "vgg16": (3, 16, 16),
    "resnet": (3, 16, 16),
    "mobilenetv2": (3, 16, 16),
}
SMALL: dict[str, dict[str, float]] = {"vgg16": {"width": 0.25}, "mobilenetv2": {"width": 0.5}}


def test_every_network_of_the_zoo_is_tested() -> None:
    assert set(IMAGES) == set(tn.zoo.NETWORKS)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", IMAGES)
def test_a_plain_network_gives_what_torch_gives(name: str, kernels: str) -> None:
    torch.manual_seed(1)
    model = tn.zoo.create(name, input_shape=IMAGES[name], **SMALL.get(name, {})).eval()
    _settle_norms(model, torch.randn(8, *IMAGES[name]))
    x = torch.randn(3, *IMAGES[name])
    engine = tn.compile(model, x, kernels=kernels)
    close(engine(x), by_torch(model, x))
    assert not [k for k in engine.operations().values() if k.startswith("torch")]


@pytest.mark.parametrize("profile", ["all-one", "linear"])
@pytest.mark.parametrize("name", IMAGES)
def test_every_budget_gives_what_torch_gives(name: str, profile: str) -> None:
    torch.manual_seed(2)
    images = torch.randn(8, *IMAGES[name])
    model = tn.zoo.create(name, input_shape=IMAGES[name], **SMALL.get(name, {}))
    net = tn.taper(model, images, profile=profile).eval()
    budgets = [1.0, 0.73, 0.5, 0.2, 0.01]
    tn.calibrate(net, [images], budgets)
    engine = tn.compile(net)
    for budget in budgets:
        engine.budget = budget
        with net.at(budget):
            # Statistics of eight images at 1% of the channels are tiny variances: a wider tolerance.
            close(engine(images), by_torch(net, images), 1e-4 if net.batch_norms() else 1e-5)
    assert engine.budget == 0.01


def test_an_extracted_network_gives_what_the_budget_gives() -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 3, 32, 32)
    net = tn.taper(tn.zoo.create("c10net"), x).eval()
    close(tn.compile(tn.extract(net, 0.4), x)(x), tn.compile(net)(x, budget=0.4))


def test_budgets_per_layer_and_named_ones() -> None:
    torch.manual_seed(4)
    x = torch.randn(2, 3, 32, 32)
    net = tn.taper(tn.zoo.create("c10net"), x, budgets={"fast": {"conv2": 0.25, "*": 0.5}}).eval()
    engine = tn.compile(net)
    for budget in ("fast", {"conv1": 0.3}):
        with net.at(budget), engine.at(budget):
            close(engine(x), by_torch(net, x))
    assert engine.budget == 1.0


def test_a_trainable_profile_is_in_the_weights() -> None:
    torch.manual_seed(5)
    x = torch.randn(2, 1, 28, 28)
    net = tn.taper(tn.zoo.create("mlp"), x, profile="trainable").eval()
    with torch.no_grad():
        for gamma in net.profiles():
            gamma.copy_(torch.linspace(1, 0.3, len(gamma)))
    with net.at(0.6):
        close(tn.compile(net)(x, budget=0.6), by_torch(net, x))


@pytest.mark.parametrize("name", ["mlp", "c10net"])
def test_several_profiles_with_layers_of_their_own(name: str) -> None:
    torch.manual_seed(6)
    x = torch.randn(2, *IMAGES[name])
    model = tn.zoo.create(name, input_shape=IMAGES[name])
    net = tn.taper(model, x, profile={0.3: "linear", 0.6: "all-one", 1.0: "harmonic"}).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # the versions start as copies of each other
            parameter.add_(0.1 * torch.randn_like(parameter))
    engine = tn.compile(net)
    for budget in (0.2, 0.3, 0.5, 0.9):
        with net.at(budget):
            close(engine(x, budget=budget), by_torch(net, x))


def test_changing_the_network_later_does_not_reach_the_engine() -> None:
    x = torch.randn(2, 1, 28, 28)
    net = tn.taper(tn.zoo.create("mlp"), x).eval()
    expected = by_torch(net, x)
    engine = tn.compile(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    close(engine(x), expected)


def test_all_budgets_share_one_buffer_of_weights() -> None:
    net = tn.taper(tn.zoo.create("nin"), torch.zeros(1, 3, 32, 32)).eval()
    engine = tn.compile(net, budgets=[b / 10 for b in range(1, 11)])
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    assert engine.weight_bytes + engine.plan_bytes <= 1.15 * weights


class _Branches(nn.Module):
    """Concatenation, a sum, functions instead of modules, and a reshape by size."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 20, 3, padding=1)
        self.left, self.right = nn.Conv2d(20, 9, 1), nn.Conv2d(20, 21, 3, padding=1)
        self.both = nn.Conv2d(30, 18, 3, padding=1, stride=2)
        self.again = nn.Conv2d(18, 18, (3, 1), padding="same")
        self.last = nn.Linear(18 * 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = torch.cat([self.left(x), F.relu(self.right(x))], 1)
        x = self.both(F.max_pool2d(x, 3, 2, padding=1))
        x = torch.relu(x + self.again(x))
        x = F.avg_pool2d(x, 2)
        out: Tensor = self.last(F.dropout(x.view(x.size(0), -1), training=self.training))
        return out


@pytest.mark.parametrize("kernels", KERNELS)
def test_branches_and_functions(kernels: str) -> None:
    torch.manual_seed(7)
    model, x = _Branches().eval(), torch.randn(3, 3, 16, 16)
    engine = tn.compile(model, x, kernels=kernels)
    close(engine(x), by_torch(model, x))
    assert not [k for k in engine.operations().values() if k.startswith("torch")]
    net = tn.taper(model, x).eval()
    engine = tn.compile(net, kernels=kernels)
    for budget in (1.0, 0.5, 0.1):
        with net.at(budget):
            close(engine(x, budget=budget), by_torch(net, x))


def test_modules_that_do_nothing_do_not_keep_a_layer_from_its_norm_and_relu() -> None:
    torch.manual_seed(6)
    layers = OrderedDict(
        a=nn.Conv2d(3, 16, 3), drop=nn.Dropout2d(), norm=nn.BatchNorm2d(16), same=nn.Identity(), act=nn.ReLU(),
        end=nn.Identity(), b=nn.Conv2d(16, 8, 3),
    )  # fmt: skip
    model, x = nn.Sequential(layers), torch.randn(2, 3, 8, 8)
    _settle_norms(model, x)
    engine = tn.compile(model.eval(), x)
    assert engine.operations() == {"a": "dense", "b": "dense"}
    close(engine(x), by_torch(model, x))
    # What something else reads as well is computed as it is.
    shared = tn.compile(_Sum(model).eval(), x)
    close(shared(x), by_torch(_Sum(model).eval(), x))


IDLE = {
    "in a row": [nn.Conv2d(3, 8, 1), nn.GELU(), nn.Dropout(), nn.Identity(), nn.GELU(), nn.Conv2d(8, 4, 1)],
    "at the end": [nn.Conv2d(3, 8, 1), nn.GELU(), nn.Dropout(), nn.Identity()],
    "before torch's": [nn.Identity(), nn.Dropout(), nn.GELU(), nn.Conv2d(3, 4, 1)],
    "alone": [nn.Identity(), nn.Dropout2d()],
    "flattened twice": [nn.Flatten(), nn.Flatten(), nn.GELU(), nn.Linear(48, 4), nn.Flatten(), nn.AlphaDropout()],
}


@pytest.mark.parametrize("case", IDLE)
def test_modules_that_do_nothing_stand_anywhere(case: str) -> None:
    torch.manual_seed(6)
    model, x = nn.Sequential(*IDLE[case]), torch.randn(2, 3, 4, 4)
    close(tn.compile(model.eval(), x)(x), by_torch(model, x))


class _Optional(nn.Module):
    """An argument that the graph uses and calls leave out, and one that chooses what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, p: float = 0.5, *more: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        out: Tensor = self.b(F.dropout(F.gelu(self.a(y)), p, training=False).mean(1))
        return out


def test_arguments_that_calls_leave_out_have_their_defaults() -> None:
    torch.manual_seed(6)
    model, x = _Optional().eval(), torch.randn(2, 5, 8)
    close(tn.compile(model, x)(x), by_torch(model, x))
    net = tn.taper(model, x).eval()
    engine = tn.compile(net, x)
    for budget in (1.0, 0.5):
        with net.at(budget):
            close(engine(x, budget=budget), by_torch(net, x))


class _Joined(nn.Module):
    """What treats each channel by itself after a concatenation of layers that are cut apart, and of one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.whole = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 20, 3), nn.Conv2d(3, 5, 3)
        self.norm, self.dw, self.folded = nn.BatchNorm2d(41), nn.Conv2d(41, 41, 3, groups=41), nn.BatchNorm2d(41)
        self.both, self.last, self.fc = nn.Conv2d(41, 9, 1), nn.BatchNorm1d(50), nn.Linear(50, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        y = torch.cat([a, torch.cat([self.b(x), self.whole(x)], 1), a], 1)
        y = self.folded(self.dw(F.relu(self.norm(y))))
        out: Tensor = self.fc(self.last(torch.cat([self.both(y).mean((2, 3)), y.mean((2, 3))], 1)))
        return out


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("profile", ["all-one", "linear"])
def test_channels_keep_their_places_after_a_concatenation(profile: str, kernels: str) -> None:
    torch.manual_seed(6)
    model, x = _Joined(), torch.randn(8, 3, 9, 9)
    _draw_norms(model)
    close(tn.compile(model, x, kernels=kernels)(x), by_torch(model, x))
    budgets = {"fast": {"a": 0.3, "b": 0.6, "*": 0.9}}
    net = tn.taper(model, x, profile=profile, keep=["whole"], budgets=budgets).eval()
    turns: list[Budget] = [1.0, 0.5, 0.2, "fast", {"b": 0.35}]
    tn.calibrate(net, [x], turns)
    _draw_norms(net)
    engine = tn.compile(net, x, kernels=kernels)
    assert not [k for k in engine.operations().values() if k.startswith("torch")]
    for budget in turns:
        with net.at(budget):
            close(engine(x, budget=budget), by_torch(net, x))
            close(by_torch(tn.extract(net, budget), x), by_torch(net, x))


def _draw_norms(model: nn.Module) -> None:
    """Weights and statistics of batch-norms that no two channels share, and that divide by nothing small."""
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for name, tensor in norm.state_dict().items():
                if not name.endswith("tracked"):
                    tensor.uniform_(-0.5, 0.5) if "bias" in name or "mean" in name else tensor.uniform_(0.5, 1.5)


class _Sum(nn.Module):
    """A layer, with its ReLU, plus the same without."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        between = self.model.same(self.model.a(x))  # type: ignore[operator]
        return self.model.act(between) + between  # type: ignore[no-any-return, operator]


def test_a_layer_without_a_kernel_runs_through_torch() -> None:
    torch.manual_seed(8)
    layers = OrderedDict(
        a=nn.Conv2d(3, 16, 3), act=nn.GELU(), b=nn.Conv2d(16, 20, 3), norm=nn.GroupNorm(4, 20),
        c=nn.Conv2d(20, 8, 3), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(8, 5),
    )  # fmt: skip
    model, x = nn.Sequential(layers).eval(), torch.randn(2, 3, 12, 12)
    engine = tn.compile(model, x)
    close(engine(x), by_torch(model, x))
    kernels = engine.operations()
    assert [name for name, kernel in kernels.items() if kernel.startswith("torch")] == ["act", "norm"]
    assert "act" in str([list(c.cells) for c in engine.summary().columns])
    net = tn.taper(model, x).eval()
    engine = tn.compile(net)
    for budget in (1.0, 0.5):
        with net.at(budget):
            close(engine(x, budget=budget), by_torch(net, x))


class _Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out if out.sum() > 0 else -out


def test_a_network_that_cannot_be_traced_runs_through_torch() -> None:
    torch.manual_seed(9)
    model, x = _Untraceable(), torch.randn(4, 6)
    engine = tn.compile(model, x)
    close(engine(x), by_torch(model, x))
    assert engine.kernels == "torch"


class _InPlace(nn.Module):
    """Something in place after a convolution."""

    count: Tensor

    def __init__(self, between: Callable[["_InPlace", Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 4, 3)
        self.norm, self.relu = nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        self.same, self.drop = nn.Identity(), nn.Dropout()
        self.register_buffer("count", torch.zeros(1, 16, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self, self.a(x))


def _without_result(m: _InPlace, h: Tensor) -> Tensor:
    F.relu_(h)
    return m.b(h)  # type: ignore[no-any-return]


def _method_without_result(m: _InPlace, h: Tensor) -> Tensor:
    h.relu_()
    return m.b(h)  # type: ignore[no-any-return]


def _part(m: _InPlace, h: Tensor) -> Tensor:
    h[:, :4].mul_(3)
    return m.b(h)  # type: ignore[no-any-return]


def _old_name(m: _InPlace, h: Tensor) -> Tensor:
    skip = h
    h += F.relu(m.b(h))
    return h + skip


def _old_name_of_a_product(m: _InPlace, h: Tensor) -> Tensor:
    skip = h
    h *= 3
    return m.b(h) + skip  # type: ignore[no-any-return]


def _flat(m: _InPlace, h: Tensor) -> Tensor:
    flat = F.relu_(h.flatten(1))
    return flat + m.b(h).flatten(1)  # type: ignore[no-any-return]


def _counted(m: _InPlace, h: Tensor) -> Tensor:
    return h + m.count.add_(h[:1])


OVERWRITTEN: dict[str, Callable[[_InPlace, Tensor], Tensor]] = {
    "the value itself": lambda m, h: m.relu(h) + h,
    "the result is not used": _without_result,
    "nor a method's": _method_without_result,
    "a part of it": _part,
    "the old name of a sum": _old_name,
    "of add_": lambda m, h: h.add_(m.b(h)) + F.relu(h),
    "of a product": _old_name_of_a_product,
    "behind Identity": lambda m, h: m.relu(m.same(h)) + m.b(h),
    "behind Dropout": lambda m, h: m.relu(m.drop(h)) + m.b(h),
    "a view": _flat,
    "read by the next call": _counted,
}


@pytest.mark.parametrize("case", OVERWRITTEN)
def test_what_changes_in_place_what_is_read_again(case: str) -> None:
    torch.manual_seed(10)
    model, x = _InPlace(OVERWRITTEN[case]).eval(), torch.randn(2, 3, 8, 8)
    engine = tn.compile(model, x)
    for _ in range(2):
        close(engine(x), by_torch(model, x))
    assert "in place, which is read again" in engine.operations()["_InPlace"]


def test_a_terminated_network_with_a_sum_in_place() -> None:
    torch.manual_seed(11)
    x = torch.randn(2, 3, 8, 8)
    net = tn.terminate(_InPlace(lambda m, h: _old_name(m, F.relu(h))), x).eval()
    for layer in terminating_layers(net).values():
        layer.set_checks([tn.Check(share=0.2)])
    close(tn.compile(net, x)(x), by_torch(net, x))


def _harmless(m: _InPlace, h: Tensor) -> Tensor:
    skip = m.relu(m.norm(h))
    out = m.relu(m.drop(m.b(skip)))
    out += skip
    return m.last(m.relu(out) + h)  # type: ignore[no-any-return]


def test_what_changes_in_place_what_nobody_reads_again_keeps_the_kernels() -> None:
    torch.manual_seed(12)
    model, x = _InPlace(_harmless), torch.randn(8, 3, 8, 8)
    _settle_norms(model, x)
    engine = tn.compile(model, x)
    close(engine(x), by_torch(model, x))
    assert not [k for k in engine.operations().values() if k.startswith("torch")]
    net = tn.taper(model, x).eval()
    tn.calibrate(net, [x], [1.0, 0.5])
    engine = tn.compile(net, x)
    assert not [k for k in engine.operations().values() if k.startswith("torch")]
    for budget in (1.0, 0.5):
        with net.at(budget):
            close(engine(x, budget=budget), by_torch(net, x), 1e-4)


def test_the_example_stays_as_it_is_and_may_be_of_inference_mode() -> None:
    torch.manual_seed(13)
    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3)).eval(), torch.randn(2, 3, 8, 8)
    before = x.clone()
    tn.compile(model, x)
    assert torch.equal(x, before)
    with torch.inference_mode():
        own = x.clone()
        engine = tn.compile(_InPlace(_part).eval(), own)
        assert torch.equal(own, before)
        shifted = _InPlace(lambda m, h: F.relu_(h) * m.count).eval()  # its buffer is of inference mode, too
    assert list(engine.operations()) == ["_InPlace"]
    close(tn.compile(shifted, x)(x), by_torch(shifted, x))


def test_a_network_that_returns_two_tensors_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x + 1

    with pytest.raises(ConfigError, match="one tensor"):
        tn.compile(Two(), torch.zeros(1, 3))


@pytest.mark.parametrize("make", [lambda net: net, lambda net: tn.terminate(net, torch.zeros(1, 1, 12, 12))])
def test_networks_that_know_their_shape_need_no_example(make: Callable[[nn.Module], nn.Module]) -> None:
    net, x = make(tn.zoo.create("c10net", input_shape=(1, 12, 12))).eval(), torch.rand(3, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(tn.compile(net)(x), net(x))


def test_bad_arguments() -> None:
    model, x = nn.Linear(4, 2), torch.zeros(1, 4)
    with pytest.raises(ConfigError, match="give an example"):
        tn.compile(model)
    with pytest.raises(ConfigError, match="at least one input"):
        tn.compile(model, torch.zeros(0, 4))
    with pytest.raises(ConfigError, match=r"does not run on the example.*cannot be multiplied[^\n]*\Z"):
        tn.compile(model, torch.zeros(1, 5))
    with pytest.raises(ConfigError, match="float32"):
        tn.compile(nn.Linear(4, 2).double(), x.double())
    with pytest.raises(ConfigError, match=r"unknown instruction set 'avx3'.*auto"):
        tn.compile(model, x, kernels="avx3")
    with pytest.raises(ConfigError, match="threads"):
        tn.compile(model, x, threads=0)
    with pytest.raises(ConfigError, match="unknown layer with checks"):
        tn.compile(model, x, choices={"fc": "dense"})
    with pytest.raises(ConfigError, match="no dial"):
        tn.compile(model, x, budgets=[0.5])


def _settle_norms(model: nn.Module, images: Tensor) -> None:
    """Batch-norm statistics that are those of data."""
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(images)
    model.eval()
