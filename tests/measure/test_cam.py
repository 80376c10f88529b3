import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapernet import TaperedNet, activation_maps, calibrate, draw_maps, taper, zoo
from tapernet.errors import ConfigError, DataError, FileError

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
Made = Callable[[], nn.Module]


def chain(*end: nn.Module) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, *end)


def pooled() -> nn.Module:
    return chain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5))


class Mean(nn.Module):
    """Averages in its forward, and gives log probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.fc = chain(), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.fc(self.features(x).mean((2, 3))), 1)


def vgg(**options: object) -> nn.Module:
    return zoo.create("vgg16", width=0.1, classes=5, batch_norm=True, hidden=0, **options)


def tapered(make: Made, profile: str = "linear") -> TaperedNet:
    torch.manual_seed(0)
    net = taper(make(), IMAGES[:1], profile=profile).eval()
    calibrate(net, [IMAGES], [1.0, 0.5, 0.2])
    return net


# Where the features are and which layer weighs them, to compute the maps by hand on the network with the dial.
@pytest.mark.parametrize(
    ("make", "features", "linear"),
    [
        (pooled, "4", "8"),
        (Mean, "features.4", "fc"),
        (lambda: vgg(pooling="average"), "relu13", "fc1"),
        (lambda: zoo.create("resnet", depth=8, classes=5), "stage3.0.relu", "fc"),
    ],
    ids=["modules", "mean in forward", "vgg", "resnet"],
)
@pytest.mark.parametrize("profile", ["all-one", "linear", "harmonic"])
def test_maps_are_the_weighed_sums_of_features_at_each_budget(
    make: Made, features: str, linear: str, profile: str
) -> None:
    net = tapered(make, profile)
    for found in activation_maps(net, IMAGES, [1.0, 0.5, 0.2]):
        kept: list[Tensor] = []
        handle = net.model.get_submodule(features).register_forward_hook(lambda m, i, o: kept.append(o))  # noqa: B023
        with net.at(found.budget), torch.no_grad():
            scores = net(IMAGES)
            layer = net.model.get_submodule(linear)
            handle.remove()
            width = kept[-1].shape[1]
            gamma = layer.inputs.profile()
            weight = layer.weight[:, :width] * (1 if gamma is None else gamma)
        assert torch.equal(found.predicted, scores.argmax(1))
        assert torch.equal(found.shown, found.predicted)
        for i, shown in enumerate(found.shown.tolist()):
            direct = sum(weight[shown, c] * kept[-1][i, c] for c in range(width))
            # The average of the map is the class's score: what the method rests on.
            score = direct.mean() + layer.bias[shown]
            expected = scores[i, shown] if make is not Mean else score
            torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)
            large = F.interpolate(direct[None, None], (32, 32), mode="bilinear")[0, 0]
            torch.testing.assert_close(found.maps[i], large, rtol=1e-4, atol=1e-5)


def test_maps_of_classes_that_are_asked_for() -> None:
    net = tapered(pooled)
    wanted = torch.tensor([4, 0, 1, 4])
    found = activation_maps(net, IMAGES, [0.5], classes=wanted)[0]
    assert torch.equal(found.shown, wanted)
    alone = [activation_maps(net, IMAGES[i : i + 1], [0.5], classes=wanted[i : i + 1])[0].maps[0] for i in range(4)]
    torch.testing.assert_close(found.maps, torch.stack(alone), rtol=1e-4, atol=1e-5)


class Heads(nn.Module):
    """Two linear layers, whose outputs `mix` makes scores of."""

    def __init__(self, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.a, self.b = mix, chain(), nn.Sequential(nn.Conv2d(12, 6, 3, padding=1), nn.ReLU())
        self.aux, self.fc = nn.Linear(12, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        early = self.a(x)
        late = self.b(early).mean((2, 3))
        return self.mix(self.aux(early.mean((2, 3))), self.fc(late), late)


@pytest.mark.parametrize(
    "mix",
    [lambda aux, out, late: out + 0.1 * aux, lambda aux, out, late: -2 * out, lambda aux, out, late: out + late[:, :5]],
    ids=["two heads", "scaled", "residual"],
)
def test_scores_that_the_last_layer_does_not_make_alone_have_no_map(mix: Callable[..., Tensor]) -> None:
    with pytest.raises(ConfigError, match="not the outputs of its last linear layer"):
        activation_maps(Heads(mix).eval(), IMAGES)


def test_of_two_heads_the_one_that_makes_the_scores_is_drawn() -> None:
    net = Heads(lambda aux, out, late: out).eval()
    found = activation_maps(net, IMAGES)[0]
    scores = net(IMAGES).gather(1, found.shown[:, None])[:, 0] - net.fc.bias[found.shown]
    torch.testing.assert_close(found.maps.mean((1, 2)), scores.detach(), rtol=0.05, atol=0.02)  # as interpolated


def test_ten_budgets_for_a_dial_and_one_for_a_plain_network() -> None:
    net = tapered(pooled)
    calibrate(net, [IMAGES], [b / 10 for b in range(1, 11)])
    assert [f.budget for f in activation_maps(net, IMAGES)] == [b / 10 for b in range(1, 11)]
    plain = pooled().eval()
    assert [f.budget for f in activation_maps(plain, IMAGES)] == [1.0]
    with pytest.raises(ConfigError, match="has no dial"):
        activation_maps(plain, IMAGES, [0.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zoo.create("nin"), "has no linear layer"),
        (lambda: zoo.create("vgg16", width=0.1, pooling="average"), "fc2, does not read the global average"),
        (lambda: chain(nn.Flatten(), nn.Linear(12 * 16 * 16, 5)), "6, does not read the global average"),
        (lambda: vgg(pooling="max"), "a single position is left before fc1"),
        (
            lambda: chain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4), nn.ZeroPad1d((0, 1))),
            "the scores of this one are not the outputs of its last linear layer, 7",
        ),
    ],
    ids=["no linear layer", "two linear layers", "flattened", "one position", "scores from elsewhere"],
)  # fmt: skip
def test_a_network_without_such_an_end_is_told_what_it_lacks(make: Made, message: str) -> None:
    with pytest.raises(ConfigError, match="global average pooling and one linear layer.*" + message):
        activation_maps(make().eval(), IMAGES)


def test_classes_that_do_not_fit_are_refused() -> None:
    net = pooled().eval()
    with pytest.raises(DataError, match="4 images need as many classes"):
        activation_maps(net, IMAGES, classes=torch.zeros(3, dtype=torch.long))
    for bad in (5, -1):
        with pytest.raises(DataError, match="classes 0 to 4"):
            activation_maps(net, IMAGES, classes=torch.full((4,), bad))


def hooks(net: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()]


class Failing(nn.Module):
    """Passes its input on, but fails in one call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.call, self.calls = call, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.call:
            raise RuntimeError("failed on purpose")
        return x


@pytest.mark.parametrize("call", [1, 2], ids=["while looking for the end", "while the extractor watches"])
def test_hooks_are_gone_after_an_error(call: int) -> None:
    net = chain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5), Failing(call))
    net[0].register_forward_hook(lambda m, i, o: None)  # one of the user's, which stays
    before = hooks(net)
    assert sum(before) == 1
    with pytest.raises(RuntimeError, match="on purpose"):
        activation_maps(net, IMAGES)
    assert hooks(net) == before
    assert net.training
    activation_maps(net, IMAGES)
    assert hooks(net) == before


def test_no_hook_is_left_after_refused_classes_or_on_a_network_with_a_dial() -> None:
    net = tapered(pooled).train()
    net.budget = 0.2
    plain = pooled()
    for one in (plain, net):
        with pytest.raises(DataError):
            activation_maps(one, IMAGES, [1.0], classes=torch.full((4,), 9))
        assert not any(hooks(one))
        assert all(m.training for m in one.modules())
    assert net.budget == 0.2


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcam.methods", None)
    with pytest.raises(ConfigError, match=r"needs the package torchcam .* pip install 'tapernet\[cam\]'"):
        activation_maps(pooled(), IMAGES)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_marks_right_and_wrong(channels: int, tmp_path: Path) -> None:
    found = activation_maps(tapered(pooled), IMAGES, [0.5, 1.0])
    pictures = torch.rand(4, channels, 32, 32)
    path = tmp_path / "grid.png"
    reds, greens = [], []
    for labels in (found[1].predicted.tolist(), ((found[1].predicted + 1) % 5).tolist()):
        draw_maps(pictures, found[1:], path, class_names="abcde", labels=labels)
        pixels = matplotlib.image.imread(path)[..., :3]
        reds.append(int((abs(pixels - [214 / 255, 39 / 255, 40 / 255]).max(-1) < 0.01).sum()))
        greens.append(int((abs(pixels - [44 / 255, 160 / 255, 44 / 255]).max(-1) < 0.01).sum()))
    # The frames of four maps, which are all right and then all wrong; the colours of a map itself hit few pixels.
    assert greens[0] > 1000 > reds[0]
    assert reds[1] > 1000 > greens[1]
    draw_maps(pictures, found, path, class_names="abcde")
    assert matplotlib.image.imread(path).shape[1] > pixels.shape[1]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = activation_maps(pooled(), IMAGES)
    with pytest.raises(FileError, match="cannot write"):
        draw_maps(torch.rand(4, 3, 8, 8), found, tmp_path / "file" / "grid.png", class_names="abcde")
