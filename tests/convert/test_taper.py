"""Tapered networks against the same architectures built small; what is refused, and how."""

import ast
import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import CLASSES, NETS, Base, SmallNet, chain
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import update_bn

from tapernet.convert.calibrate import calibrate
from tapernet.convert.extract import extract
from tapernet.convert.taper import taper
from tapernet.errors import ConfigError, TaperError
from tapernet.nn.prefix import PrefixModule
from tapernet.profile import coefficients

PROFILES = ("all-one", "linear", "harmonic")


def scrambled(model: nn.Module) -> nn.Module:
    """The model with no parameter or statistic at a value that hides a mistake."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model.eval()


def batches_of(shape: tuple[int, ...], n: int = 2) -> list[Tensor]:
    return [torch.randn(4, *shape) for _ in range(n)]


@st.composite
def cases(draw: Callable[..., int], net: SmallNet) -> tuple[int, int, int, str, tuple[int, ...]]:
    """Widths a and b, a percent, a profile and an input shape."""
    sides = [n + draw(st.integers(0, 3)) if net.any_size else n for n in net.shape[1:]]
    a = draw(st.integers(1 if net.unit == 1 else 2, 9)) * net.unit  # one group alone is no grouping
    return (
        a,
        draw(st.integers(1, 9)),
        draw(st.integers(1, 100)),
        draw(st.sampled_from(PROFILES)),
        (net.shape[0], *sides),
    )


@pytest.mark.parametrize("name", NETS)
def test_full_budget_without_profile_is_the_plain_net(name: str) -> None:
    small = NETS[name]
    model = scrambled(small.make(6, 4))
    x = torch.randn(3, *small.shape)
    net = taper(model, x[:1], "all-one")
    assert torch.equal(net(x), model(x))


@pytest.mark.parametrize("name", NETS)
def test_a_prefix_is_the_architecture_built_small(name: str) -> None:
    """The definition: a net of the kept widths, whose weights are leading parts, weighing what its layers read."""
    small = NETS[name]

    @settings(max_examples=8, deadline=None)
    @given(cases(small), st.integers(0, 2**31))
    def check(case: tuple[int, int, int, str, tuple[int, ...]], seed: int) -> None:
        a, b, percent, profile, shape = case
        torch.manual_seed(seed)
        model, data = scrambled(small.make(a, b)), batches_of(shape)
        expected = small.cut(model, a, b, percent).eval()
        ka, kb = small.kept(a, b, percent)
        small.weigh(expected, {"a": coefficients(profile, a)[:ka], "b": coefficients(profile, b)[:kb]})
        update_bn([x.clone() for x in data], expected)
        expected.eval()

        net = taper(model, data[0][:1], profile)
        calibrate(net, data, [percent / 100])
        with net.at(percent / 100), torch.no_grad():
            torch.testing.assert_close(net(data[0]), expected(data[0]), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(extract(net, percent / 100)(data[0]), net(data[0]), rtol=1e-5, atol=1e-5)
        assert sum(p.numel() for p in net_parameters(net, percent)) == sum(p.numel() for p in expected.parameters())

    check()


def net_parameters(net: nn.Module, percent: int) -> list[Tensor]:
    with net.at(percent / 100):
        return list(net.active_parameters())


@pytest.mark.parametrize("name", NETS)
def test_every_weight_that_is_used_learns_and_no_other(name: str) -> None:
    small = NETS[name]
    net = taper(scrambled(small.make(6, 4)), torch.zeros(1, *small.shape), "linear").train()
    before = {n: p.detach().clone() for n, p in net.model.named_parameters()}
    with net.at(0.5):
        net(torch.randn(8, *small.shape)).square().mean().backward()
    layers = {n: m for n, m in net.model.named_modules() if isinstance(m, PrefixModule)}
    with net.at(0.5):
        for path, layer in layers.items():
            for key, parameter in layer.named_parameters(recurse=False):
                unused = torch.ones_like(parameter, dtype=torch.bool)
                unused[layer.prefix().get(key, ())] = False
                assert parameter.grad is not None, (path, key)
                assert not parameter.grad[unused].any(), (path, key)
    assert all(torch.equal(p, before[n]) for n, p in net.model.named_parameters())


def test_the_model_is_not_changed() -> None:
    model = NETS["residual"].make(6, 4)
    model.conv2.eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    net = taper(model, torch.zeros(2, 3, 6, 6))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(isinstance(m, PrefixModule) for m in model.modules())
    with torch.no_grad():
        net.model.conv1.weight.zero_()
    assert model.conv1.weight.any()


def test_attributes_and_modes_of_modules_are_kept() -> None:
    model = NETS["residual"].make(6, 4).train()
    model.note, model.conv2.note = "mine", "of a layer"
    model.bn.eval()
    net = taper(model, torch.zeros(2, 3, 6, 6))
    assert (net.model.note, net.model.conv2.note) == ("mine", "of a layer")
    assert net.training
    assert net.model.conv2.training
    assert not net.model.bn.training


def test_a_copy_has_a_dial_of_its_own() -> None:
    net = taper(NETS["dense"].make(6, 4), torch.zeros(2, 3, 6, 6))
    other = copy.deepcopy(net)
    other.budget = 0.5
    assert net.budget == 1.0
    assert net.model.conv1.outputs.kept == 6
    assert other.model.conv1.outputs.kept == 3
    assert other.model.bn.outputs.spans[0].group is other.groups[0]


def test_dtype_moves_with_the_net() -> None:
    net = taper(NETS["residual"].make(6, 4), torch.zeros(2, 3, 6, 6), "linear").to(torch.float64)
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    calibrate(net, [x], [0.5])
    with net.eval().at(0.5):
        assert net(x).dtype == torch.float64
        torch.testing.assert_close(extract(net, 0.5)(x), net(x))


def test_kept_layers_and_everything_they_are_summed_with_stay_whole() -> None:
    net = taper(NETS["residual"].make(6, 4), torch.zeros(2, 3, 6, 6), keep=["conv3"])
    assert [g.name for g in net.groups] == ["conv2"]
    with net.at(0.5):
        assert net.model.conv1.outputs.kept == 6
        assert net.model.conv2.outputs.kept == 2


def test_keeping_a_container_keeps_what_is_inside() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)), nn.Linear(5, 6), nn.Linear(6, 2))
    assert [g.name for g in taper(model, torch.zeros(2, 3), keep=["0"]).groups] == ["1"]


def test_keeping_a_module_by_another_of_its_paths() -> None:
    net = taper(NETS["shared"].make(6, 4), torch.zeros(2, 3, 6, 6), multiple=2)
    assert len(net.groups) == 1
    for path in ("again", "again.0", "bn"):
        with pytest.raises(TaperError, match="no layer has channels to cut"):
            taper(NETS["shared"].make(6, 4), torch.zeros(2, 3, 6, 6), keep=[path])


@pytest.mark.parametrize(
    ("name", "layers"), [("indexing", ("conv1", "conv2")), ("grouped residual", ("conv1", "conv2"))]
)
def test_layers_whose_channels_are_combined_share_a_group(name: str, layers: tuple[str, ...]) -> None:
    groups = taper(NETS[name].make(6, 4), torch.zeros(2, *NETS[name].shape)).groups
    assert [group.layers for group in groups] == [layers]


def test_what_is_summed_with_the_input_is_never_cut() -> None:
    class Sum(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.conv2(F.relu(self.conv1(x)))) + x)

    model = Sum(8, 3)
    model.conv2 = nn.Conv2d(8, 3, 3, padding=1)
    assert [g.name for g in taper(model, torch.zeros(2, 3, 6, 6)).groups] == ["conv1"]


def test_group_names_every_layer_that_makes_its_channels() -> None:
    groups = taper(NETS["residual"].make(6, 4), torch.zeros(2, 3, 6, 6)).groups
    assert {g.name: g.layers for g in groups} == {"conv1": ("conv1", "conv3"), "conv2": ("conv2",)}


def test_kept_counts_are_multiples_and_whole_groups() -> None:
    model = chain(lambda a: nn.GroupNorm(a // 3, a))(30, 8)
    net = taper(model, torch.zeros(2, 3, 6, 6), multiple=2)
    with net.at(0.3):
        assert net.model[0].outputs.kept == 12
        assert net.model[3].outputs.kept == 2


def test_groups_over_the_features_of_a_channel_do_not_round() -> None:
    """Two features come of each channel, and a group has two of them: every channel is a group."""
    each = nn.Conv2d(6, 12, 3, padding=1, groups=6)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), each, nn.Conv2d(12, 12, 1, groups=6), nn.Conv2d(12, 2, 1))
    net = taper(model, torch.zeros(2, 3, 6, 6))
    with net.at(0.5):
        assert [layer.outputs.kept for layer in net.model] == [3, 6, 6, 2]


def test_several_profiles_have_first_and_last_layers_of_their_own() -> None:
    x = torch.randn(4, 3, 6, 6)
    net = taper(scrambled(NETS["residual"].make(6, 4)), x, {0.5: "linear", 1.0: "all-one"})
    first, last = net.model.conv1, net.model.fc
    assert [len(switch.versions) for switch in (first, last)] == [2, 2]
    with torch.no_grad():
        first.versions[0].weight.zero_()
        first.versions[0].bias.zero_()
    calibrate(net, [x], [0.3, 1.0])
    for budget, silent in ((0.3, True), (1.0, False)):
        with net.at(budget), torch.no_grad():
            torch.testing.assert_close(extract(net, budget)(x), net(x))
            assert net.model.conv1(x).any().item() is not silent


class Shuffle(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        n, c, h, w = x.shape
        return self.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class HardCoded(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.conv1(x), 1).view(-1, 8))


class Chunk(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv1(x).chunk(2, 1)[0].mean((2, 3)))


class MeanOverChannels(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv1(x).mean(1).flatten(1))


class SoftmaxOverChannels(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv1(x).softmax(1))


class Misaligned(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv1(x), self.conv1(x)], 1) + self.conv2(x))


class PartOfChannels(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv1(x)[:, 2:])


class PoolingOverChannels(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.max_pool2d(self.conv1(x).permute(0, 2, 3, 1), 2).flatten(1))


class Crossed(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(x + x.permute(0, 3, 1, 2))


class PaddedChannels(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.pad(self.conv1(x), (0, 0, 0, 0, 1, 1)))


class ComputedPadding(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(F.pad(x, (0, x.size(0))))


class Fixed(Base):
    """A number that the walk does not see: it is computed from a constant."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.fc(self.after(x.mean((2, 3)).view(-1, x.size(0) - x.size(0) + 8)))


def base(kind: type[Base], features: int, **layers: nn.Module) -> nn.Module:
    model = kind(8, features)
    for name, layer in layers.items():
        setattr(model, name, layer)
    return model


def hooked() -> nn.Module:
    model = chain()(8, 8)
    model[2].register_forward_hook(lambda *_: None)
    return model


def normed(norm: Callable[[nn.Module], object]) -> nn.Module:
    model = chain()(8, 8)
    norm(model[2])
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    return model


def unused() -> nn.Module:
    return base(type("Unused", (HardCoded,), {"forward": lambda s, x: s.head(s.conv1(x))}), 8, extra=nn.Linear(3, 3))


REFUSED = {
    "channel shuffle": (lambda: base(Shuffle, 8), r"^model: view: .*splits the channels.*keep=\['conv1'\]"),
    "constant in a view": (lambda: base(HardCoded, 8), r"^model: view: .*constant 8 .*write -1"),
    "chunk": (lambda: base(Chunk, 4), r"^model: chunk: .*does not know"),
    "mean over channels": (lambda: base(MeanOverChannels, 36), r"^model: mean: reduces over the channels"),
    "softmax over channels": (lambda: base(SoftmaxOverChannels, 8), r"^model: softmax: normalises over the channels"),
    "misaligned sum": (
        lambda: base(Misaligned, 16, conv2=nn.Conv2d(3, 16, 3, padding=1)),
        r"^model: add: .*do not line up.*keep=\['conv1', 'conv2'\]",
    ),
    "part of the channels": (lambda: base(PartOfChannels, 6), r"^model: getitem: takes some of the channels"),
    "pooling over channels": (
        lambda: base(PoolingOverChannels, 72),
        r"^model: max_pool2d: takes dimension 1 for channels, but they are dimension 3",
    ),
    "channels in different dimensions": (lambda: base(Crossed, 8), r"^model: add: .*channels are different dimensions"),
    "padded channels": (lambda: base(PaddedChannels, 10), r"^model: pad: pads the channels"),
    "computed argument": (lambda: base(ComputedPadding, 8), r"^model: pad: has a computed argument"),
    "unknown module": (lambda: chain(lambda a: nn.LocalResponseNorm(3))(8, 8), r"^1: .*how LocalResponseNorm moves"),
    "shrinking grouped convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, groups=4), nn.Conv2d(4, 2, 1)),
        r"^1: is a grouped convolution whose outputs",
    ),
    "instance norm with statistics": (
        lambda: chain(lambda a: nn.InstanceNorm2d(a, track_running_stats=True))(8, 8),
        r"^1: is an instance norm with running statistics",
    ),
    "batch norm over positions": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 1), nn.Flatten(1), nn.Unflatten(1, (8, 6)), nn.BatchNorm1d(8)),
        r"^2: .*how Unflatten moves",
    ),
    "forward hook": (hooked, r"^2: has forward or backward hooks"),
    "weight norm": (lambda: normed(torch.nn.utils.weight_norm), r"^2: has forward or backward hooks.*weight_norm"),
    "parametrization": (lambda: normed(parametrizations.weight_norm), r"^2: has parametrizations"),
    "tied parameters": (tied, r"^1: its weight is also 0.weight"),
    "a layer that does not run": (unused, r"^extra: does not run"),
    "nothing to cut": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), r"^Sequential: no layer"),
    "a computed constant": (lambda: base(Fixed, 8, after=nn.ReLU()), r"at or after it the model fails"),
}

SHAPES = {
    "tied parameters": (4,),
    "batch norm over positions": (3, 6),
    "channels in different dimensions": (3, 8, 8),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_path_and_the_reason(case: str) -> None:
    make, message = REFUSED[case]
    shape = SHAPES.get(case, (3, 6, 6))
    with pytest.raises(TaperError, match=message):
        taper(make(), torch.zeros(2, *shape))


@pytest.mark.parametrize("mix", [nn.GroupNorm(4, 12), nn.Conv2d(12, 12, 1, groups=4)])
def test_group_that_straddles_a_concatenation(mix: nn.Module) -> None:
    class Straddle(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(torch.cat([self.conv1(x), self.conv2(x)], 1)))

    model = base(Straddle, 12, conv2=nn.Conv2d(3, 4, 3, padding=1), mix=mix)
    with pytest.raises(TaperError, match=r"^mix: .*straddle a concatenation.*keep=\['conv1', 'conv2'\]"):
        taper(model, torch.zeros(2, 3, 6, 6))


@pytest.mark.parametrize(
    "case", ["channel shuffle", "constant in a view", "chunk", "mean over channels", "unknown module"]
)
def test_what_is_refused_works_with_its_channels_kept(case: str) -> None:
    """The way out that the message names; a layer behind it is there to be cut."""
    inner = REFUSED[case][0]()
    model = scrambled(nn.Sequential(inner, nn.ReLU(), nn.Linear(CLASSES, 8), nn.Linear(8, CLASSES)))
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(TaperError) as refusal:
        taper(model, x)
    keep = ast.literal_eval(str(refusal.value).partition("keep=")[2].partition("]")[0] + "]")
    net = taper(model, x, "all-one", keep=keep)
    assert torch.equal(net(x), model(x))
    with net.at(0.5):
        assert net(x).shape == (2, CLASSES)


def test_an_example_of_another_type_than_the_weights_is_told_as_such() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).half()
    with pytest.raises(TaperError, match=r"^0\.weight: is torch\.float16, but the example is torch\.float32"):
        taper(model, torch.zeros(1, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_profile_has_the_type_of_the_weights(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    net = taper(model, torch.zeros(1, 4, dtype=dtype), "linear")
    with net.at(0.5):
        assert net(torch.randn(2, 4, dtype=dtype)).dtype == dtype


def test_model_that_cannot_be_traced() -> None:
    class Branch(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv1(x)) if x.sum() > 0 else self.head(x)

    with pytest.raises(TaperError, match="cannot be traced"):
        taper(Branch(8, 8), torch.zeros(2, 3, 6, 6))


def test_example_that_does_not_fit(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TaperError, match=r"^0: does not run on an example of shape \(2, 1, 6, 6\)") as refusal:
        taper(chain()(4, 4), torch.zeros(2, 1, 6, 6))
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_shared_layer_on_channels_that_differ() -> None:
    class Twice(Base):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv2(self.conv1(x))
            return self.head(self.conv2(torch.cat([y[:, :, :, :3], y[:, :, :, 3:]], 3).flatten(1).view(-1, 8, 6, 6)))

    with pytest.raises(TaperError, match="keep="):
        taper(base(Twice, 8, conv2=nn.Conv2d(8, 8, 3, padding=1)), torch.zeros(2, 3, 6, 6))


def test_tapered_nets_are_not_tapered_again() -> None:
    net = taper(chain()(4, 4), torch.zeros(2, 3, 6, 6))
    with pytest.raises(TaperError, match="tapered already"):
        taper(net, torch.zeros(2, 3, 6, 6))


def test_unknown_path_in_keep() -> None:
    with pytest.raises(ConfigError, match=r"conv2x.*did you mean 'conv2'"):
        taper(NETS["residual"].make(4, 4), torch.zeros(2, 3, 6, 6), keep=["conv2x"])


def test_bad_multiple() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        taper(chain()(4, 4), torch.zeros(2, 3, 6, 6), multiple=0)


def test_several_profiles_must_reach_one() -> None:
    with pytest.raises(ConfigError, match="must reach budget"):
        taper(chain()(4, 4), torch.zeros(2, 3, 6, 6), {0.5: "linear"})


def test_a_trainable_profile_stands_alone() -> None:
    with pytest.raises(ConfigError, match="stands alone"):
        taper(chain()(4, 4), torch.zeros(2, 3, 6, 6), {0.5: "linear", 1.0: "trainable"})


def test_images_of_another_size() -> None:
    pooled = taper(NETS["residual"].make(4, 4).eval(), torch.zeros(2, 3, 6, 6), "all-one")
    assert pooled(torch.zeros(2, 3, 9, 7)).shape == (2, CLASSES)
    flat = taper(NETS["functional"].make(4, 4).eval(), torch.zeros(2, 3, 6, 6))
    for x in (torch.zeros(2, 3, 9, 7), torch.zeros(2, 1, 6, 6), torch.zeros(3, 6, 6)):
        with pytest.raises(ConfigError, match=r"takes batches of shape \(n, 3, 6, 6\)"):
            flat(x)
    with pytest.raises(ConfigError, match="takes batches"):
        pooled(torch.zeros(2, 1, 6, 6))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"model": len}, "the model is a torch module, not builtin"),
        ({"example": None}, "the example is a tensor.*not NoneType"),
        ({"example": torch.zeros(())}, r"the example is a tensor.*of shape \(\)"),
        ({"example": [[1.0]]}, "the example is a tensor.*not list"),
        ({"multiple": 1.5}, "multiple is a whole number from 1, not 1.5"),
        ({"profile": 3}, "a profile is a name .*linear.* or numbers, not 3"),
    ],
)
def test_arguments_of_another_type_are_named(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        taper(**({"model": chain()(4, 4), "example": torch.zeros(2, 3, 6, 6)} | bad))  # type: ignore[arg-type]
