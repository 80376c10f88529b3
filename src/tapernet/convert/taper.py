"""`taper`: any model made of layers that we can cut becomes one network for every budget."""

import copy
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from tapernet.budget import to_percent
from tapernet.convert.channels import ChannelSet, Runs, Use, find_channels
from tapernet.errors import ConfigError, TaperError
from tapernet.nn.group import ChannelGroup, Layout, Span
from tapernet.nn.net import TaperedNet
from tapernet.nn.prefix import PrefixConv2d, PrefixLinear
from tapernet.nn.switch import Switch
from tapernet.profile import TRAINABLE, ProfileSpec
from tapernet.registry import unknown


def taper(
    model: nn.Module,
    example: Tensor,
    profile: ProfileSpec | Mapping[float, ProfileSpec] = "linear",
    keep: Iterable[str] = (),
    multiple: int = 1,
) -> TaperedNet:
    """One network that runs at every budget, from a copy of `model`.

    Args:
        model: an MLP or CNN; not changed.
        example: one batch of inputs, shape (n, channels, height, width); only its shape matters.
        profile: a profile's name, its coefficients, or for multiple-profile IDP the upper budget of each range with
            its profile, as in ``{0.3: "linear", 1.0: "harmonic"}``: each range then has a first and a last layer of
            its own.
        keep: paths of modules whose outputs are never cut. The first input and the last output never are.
        multiple: kept counts are rounded up to a multiple of this.

    Raises:
        TaperError: a module cannot be tapered; the message starts with its path.
        ConfigError: an unknown path in `keep`, a bad profile or budget.
    """
    ranges = _ranges(profile)
    keep = frozenset(keep)
    paths = {name for name, _ in model.named_modules() if name}
    for path in keep - paths:
        raise ConfigError(unknown("module in keep", path, paths))
    uses = find_channels(model, example, keep)
    groups = _groups(uses, list(ranges.values()), list(ranges), multiple)
    if not groups:
        raise TaperError(f"{type(model).__name__}: no layer has channels to cut")
    tapered = copy.deepcopy(model)
    for i, use in enumerate(uses):
        layer = _prefix_layer(tapered.get_submodule(use.path), _layout(use.inputs, groups), _layout(use.outputs, groups))
        own = len(ranges) > 1 and i in (0, len(uses) - 1)
        tapered.set_submodule(use.path, _versions(layer, list(ranges)) if own else layer)
    options = {"profile": _plain(profile), "keep": sorted(keep), "multiple": multiple}
    net = TaperedNet(tapered, list(groups.values()), example.shape[1:], options)
    net.train(model.training)
    return net


def _ranges(profile: ProfileSpec | Mapping[float, ProfileSpec]) -> dict[int, ProfileSpec]:
    """Upper percent of each range to its profile, in increasing order."""
    if not isinstance(profile, Mapping):
        return {100: profile}
    ranges = {to_percent(upper): p for upper, p in sorted(profile.items())}
    if 100 not in ranges:
        raise ConfigError("the last of several profiles must reach budget 1.0")
    if TRAINABLE in ranges.values():
        raise ConfigError("a trainable profile stands alone: several profiles are fixed ones")
    return ranges


def _groups(
    uses: Sequence[Use], profiles: list[ProfileSpec], ranges: list[int], multiple: int
) -> dict[ChannelSet, ChannelGroup]:
    """A channel group for every channel set that may be cut."""
    roots = dict.fromkeys(run.channels.root() for use in uses for run in use.outputs)
    return {r: ChannelGroup(r.name, r.size, profiles, ranges, multiple) for r in roots if not r.whole}


def _layout(runs: Runs, groups: Mapping[ChannelSet, ChannelGroup]) -> Layout:
    roots = [(run.channels.root(), run.repeat) for run in runs]
    return Layout(tuple(Span(root.size, groups.get(root), repeat) for root, repeat in roots))


def _prefix_layer(layer: nn.Module, inputs: Layout, outputs: Layout) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return PrefixConv2d.of(layer, inputs, outputs)
    assert isinstance(layer, nn.Linear)
    return PrefixLinear.of(layer, inputs, outputs)


def _versions(layer: nn.Module, ranges: Sequence[int]) -> Switch:
    # The layouts refer to the one set of groups, so only the parameters are copied.
    versions = [layer]
    for _ in ranges[1:]:
        version = copy.copy(layer)
        version._parameters = {
            k: None if p is None else nn.Parameter(p.detach().clone()) for k, p in layer._parameters.items()
        }
        versions.append(version)
    return Switch(versions, ranges)


def _plain(profile: ProfileSpec | Mapping[float, ProfileSpec]) -> object:
    """The profile as JSON can hold it."""
    if isinstance(profile, Mapping):
        return {str(upper): _plain(p) for upper, p in profile.items()}
    return profile if isinstance(profile, str) else [float(v) for v in profile]
