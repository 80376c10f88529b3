"""`taper`: any model made of layers that we can cut becomes one network for every budget."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tapernet.budget import to_percent
from tapernet.convert.calibrate import forget, measuring
from tapernet.convert.channels import ChannelSet, Runs, Use, find_channels
from tapernet.convert.rules import LAYERS
from tapernet.errors import ConfigError, TaperError
from tapernet.nn.group import ChannelGroup, Layout, Span
from tapernet.nn.net import TaperedNet
from tapernet.nn.prefix import PrefixModule
from tapernet.nn.switch import Switch
from tapernet.profile import TRAINABLE, ProfileSpec
from tapernet.registry import unknown

SMALLEST = 0.01
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def taper(
    model: nn.Module,
    example: Tensor,
    profile: ProfileSpec | Mapping[float, ProfileSpec] = "linear",
    keep: Iterable[str] = (),
    multiple: int = 1,
    *,
    budgets: Mapping[str, Mapping[str, float]] | None = None,
) -> TaperedNet:
    """One network that runs at every budget, from a copy of `model`.

    Layers that mix channels (Linear, convolutions) compute a prefix of their outputs from a prefix of their inputs, and
    apply the profile to what they read. Channels that a residual sum or a broadcast product combines are cut together;
    a depthwise or grouped convolution is cut with its inputs, by whole groups; norms are over what is kept. Channels
    combined with the input or with a parameter of the model's own are never cut.

    Args:
        model: an MLP or CNN; not changed. Its batch-norm statistics stay valid at budget 1.0 under an all-one profile;
            under another, `calibrate` must measure them first.
        example: one batch of inputs, shape (n, channels, height, width); only its shape, type and device matter.
        profile: a profile's name, its coefficients, or for multiple-profile IDP the upper budget of each range with
            its profile, as in ``{0.3: "linear", 1.0: "harmonic"}``: each range then has a first and a last layer of
            its own.
        keep: paths of modules whose outputs, and those of all modules inside them, are never cut. The first input and
            the last output never are.
        multiple: kept counts are rounded up to a multiple of this.
        budgets: budgets per layer by name, as in ``{"fast": {"features.0": 0.5, "*": 0.25}}``; see
            `TaperedNet.name_budget`.

    Raises:
        TaperError: a module cannot be tapered; the message starts with its path.
        ConfigError: an unknown path in `keep` or `budgets`, a bad profile, budget or multiple, an example that is no
            batch.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the model is a torch module, not {type(model).__name__}")
    if not isinstance(example, Tensor) or example.dim() < 2:
        found = f"of shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ConfigError(f"the example is a tensor, a batch of inputs of shape (n, ...), not {found}")
    if not isinstance(multiple, int) or multiple < 1:
        raise ConfigError(f"multiple is a whole number from 1, not {multiple!r}")
    ranges = _ranges(profile)
    keep = frozenset(keep)
    paths = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    for path in keep - paths:
        raise ConfigError(unknown("module in keep", path, paths))
    _check(model, example)
    # Two inputs, so that the batch is told from dimensions of one, and batch-norm has something to average.
    batch = example if len(example) > 1 else torch.cat([example, example])
    uses = find_channels(copy.deepcopy(model).eval(), batch, keep)
    groups = _groups(uses, list(ranges.values()), list(ranges), multiple)
    if not groups:
        raise TaperError(f"{type(model).__name__}: no layer has channels to cut")
    options = {"profile": _plain(profile), "keep": sorted(keep), "multiple": multiple}
    tapered = _with_prefix_layers(model, uses, groups, list(ranges))
    for group in groups.values():
        group.to(example.dtype if example.is_floating_point() else None)  # a profile in float32 would promote half
    net = TaperedNet(tapered, list(groups.values()), example.shape[1:], options)
    net.training = model.training
    for name, budget in (budgets or {}).items():
        net.name_budget(name, budget)
    if not all(group.flat for group in groups.values()):
        for layer in net.batch_norms():
            layer.forget()
    _try_smallest(net, batch)
    return net


def _check(model: nn.Module, example: Tensor) -> None:
    """Refuses what a copy with other layers in it would lose or break, and an example of another type than the weights.

    Tracing would fail on such an example, too, but at the first layer and as if that were at fault.
    """
    for path, parameter in model.named_parameters():
        if parameter.is_floating_point() and example.is_floating_point() and parameter.dtype != example.dtype:
            raise TaperError(f"{path}: is {parameter.dtype}, but the example is {example.dtype}; convert one of them")
    owners: dict[int, str] = {}
    for path, module in model.named_modules():
        where = path or type(model).__name__
        if isinstance(module, (TaperedNet, PrefixModule)):
            raise TaperError(f"{where}: is tapered already")
        if is_parametrized(module):
            raise TaperError(f"{where}: has parametrizations, which a prefix of its weight would bypass; remove them "
                             f"first with torch.nn.utils.parametrize.remove_parametrizations")  # fmt: skip
        if any(getattr(module, hooks) for hooks in _HOOKS):
            raise TaperError(f"{where}: has forward or backward hooks, which the layer in its place would not run; "
                             f"remove them first (torch.nn.utils.remove_weight_norm, if that set them)")  # fmt: skip
        for name, parameter in module.named_parameters(recurse=False):
            owner = owners.setdefault(id(parameter), f"{path}.{name}")
            if owner != f"{path}.{name}":
                raise TaperError(f"{where}: its {name} is also {owner}, and tied parameters cannot be tapered")


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
    return {
        r: ChannelGroup(r.name, r.size, profiles, ranges, lcm(multiple, r.multiple), layers=r.layers)
        for r in roots
        if not r.whole
    }


def _with_prefix_layers(
    model: nn.Module, uses: Sequence[Use], groups: Mapping[ChannelSet, ChannelGroup], ranges: list[int]
) -> nn.Module:
    """A copy of the model with a prefix layer in place of each layer that is used."""
    mixing = [use for use in uses if use.mixes]
    ends = {mixing[0].path, mixing[-1].path}
    # A deep copy looks up what is copied already, so each layer's successor stands wherever the layer did.
    copied: dict[int, Any] = {}
    for use in uses:
        layer = model.get_submodule(use.path)
        own = copy.deepcopy(layer)
        inputs, outputs = (layout_of(runs, groups) for runs in (use.inputs, use.outputs))
        prefix: PrefixModule = LAYERS[type(layer)].of(own, inputs, outputs)
        copied[id(layer)] = _versions(prefix, ranges) if len(ranges) > 1 and use.path in ends else prefix
    return copy.deepcopy(model, copied)


def layout_of(runs: Runs, groups: Mapping[ChannelSet, ChannelGroup]) -> Layout:
    """The channels of a value in order, those of a set without a group whole."""
    roots = [(run.channels.root(), run.repeat) for run in runs]
    return Layout(tuple(Span(root.size, groups.get(root), repeat) for root, repeat in roots))


def _versions(layer: PrefixModule, ranges: Sequence[int]) -> Switch:
    # The layouts refer to the one set of groups. Everything else is each version's own, hooks too: a hook on a shared
    # dictionary would count the active version once for every version.
    layouts = {id(layout): layout for layout in (layer.inputs, layer.outputs)}
    return Switch([layer, *(copy.deepcopy(layer, dict(layouts)) for _ in ranges[1:])], ranges)


def _try_smallest(net: TaperedNet, batch: Tensor) -> None:
    """Runs the network where most is cut: what the walk cannot see, such as a computed size, fails here."""
    visited: list[str] = []

    def visit(path: str) -> Callable[..., None]:
        return lambda *_: visited.append(path)

    handles = [m.register_forward_pre_hook(visit(path)) for path, m in net.model.named_modules() if path]
    try:
        with net.at(SMALLEST), measuring(net):
            net(batch)
            forget(net)
    except Exception as error:  # whatever the model's forward raises
        where = visited[-1] if visited else type(net.model).__name__
        raise TaperError(f"{where}: at or after it the model fails when channels are cut, at budget {SMALLEST}: "
                         f"{error}") from error  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()


def _plain(profile: ProfileSpec | Mapping[float, ProfileSpec]) -> object:
    """The profile as JSON can hold it."""
    if isinstance(profile, Mapping):
        return {str(upper): _plain(p) for upper, p in profile.items()}
    return profile if isinstance(profile, str) else [float(v) for v in profile]
