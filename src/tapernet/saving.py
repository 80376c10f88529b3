"""Networks as files: one safetensors file whose JSON header says how to build the network again."""

import copy
import inspect
import math
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tapernet import zoo
from tapernet.convert.taper import taper
from tapernet.convert.terminate import terminate
from tapernet.errors import ConfigError, FileError
from tapernet.files import header_field, read_tensors, reading, write_tensors
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import terminating_layers
from tapernet.prune import prune_filters

KIND = ("network", "tapered network")
"""What a file calls itself, and what it did in version 1."""
VERSION = 2
CASCADE = "cascade"
"""The key of a cascade's thresholds, beside the arguments of `taper`; files without it are as valid."""


@dataclass(frozen=True)
class InputSpec:
    """What the network was trained on, so that new images can be prepared alike.

    Args:
        mean: of each channel, in units of [0, 1].
        std: of each channel.
        class_names: of the outputs, in order.
        data: where the data set is found again, "digits" or a Hugging Face id; None if it was a folder.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    data: str | None = None


def save(net: nn.Module, path: str | Path, spec: InputSpec | None = None) -> None:
    """Writes a network, atomically.

    Args:
        net: from `taper`, `terminate` or `prune_filters`, or one of these after another, with its checks; or a
            plain network of the zoo. One whose model is not from the zoo is loaded with `load(path, model=...)`.
        path: the file, by custom ending in .safetensors.
        spec: how its images were prepared; kept for whoever loads it.

    Raises:
        ConfigError: a plain network that is not from the zoo, for which there would be nothing but its weights to keep.
        FileError: the folder cannot be written, or the disk is full.

    Warns:
        RuntimeWarning: budgets were trained, and have no batch-norm statistics.
    """
    _check_statistics(net)
    if any(layer.threshold_moves is not None for layer in terminating_layers(net).values()):
        net = copy.deepcopy(net)  # in a copy thresholds no longer learn, but are the checks' own
    model = net.model if isinstance(net, TaperedNet) else net
    assert isinstance(model, nn.Module)
    header = {
        "kind": KIND[0],
        "version": VERSION,
        "model": getattr(model, "zoo_entry", None),
        "pruned": getattr(model, "kept", None),
        "input_shape": input_shape(net),
        "taper": {k: v for k, v in net.options.items() if k != CASCADE} if isinstance(net, TaperedNet) else None,
        CASCADE: net.options.get(CASCADE) if isinstance(net, TaperedNet) else None,
        "terminate": getattr(net, "termination", None),
        "spec": None if spec is None else asdict(spec),
    }
    state = net.state_dict()
    # Only what a module says by itself: torch's own layers have version 1 or none, and read either.
    told = {path: about.get("version") for path, about in state._metadata.items()}  # type: ignore[attr-defined]
    write_tensors(path, state, header | {"versions": {path: v for path, v in told.items() if v is not None}})


def _check_statistics(net: nn.Module) -> None:
    norms = net.batch_norms() if isinstance(net, TaperedNet) else ()
    missing = {label: None for norm in norms for key, label in norm.trained.items() if key not in norm.keys()}  # noqa: SIM118
    if missing:
        budgets = ", ".join(missing)
        warnings.warn(
            f"the network was trained at budgets {budgets} and has no batch-norm statistics for them, so that it "
            f"cannot be run there: call calibrate(net, batches, [{budgets}]) before save", RuntimeWarning, stacklevel=3,
        )  # fmt: skip


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Reads a network that `save` wrote. No code from the file is run.

    Args:
        path: the file.
        model: the untrained model that was tapered, pruned or terminated; needed if it is not from the zoo.

    Returns:
        What was saved: a `TaperedNet`, or a plain module, either perhaps with terminating layers; in eval mode.

    Raises:
        FileError: missing, truncated, foreign, or of a future version; or its tensors are not those of the network.
        ConfigError: the model is not from the zoo and none was given.
    """
    return load_with_spec(path, model)[0]


def load_with_spec(path: str | Path, model: nn.Module | None = None) -> tuple[nn.Module, InputSpec | None]:
    """As `load`, with how the images were prepared."""
    tensors, header = read_tensors(path, kind=KIND, version=VERSION)
    if header["kind"] != KIND[0]:
        header |= {"pruned": None, "terminate": None}
    if model is None and header.get("model") is None:
        raise ConfigError(f"{path} holds a network whose model is not from the zoo: load(path, model=...)")
    with reading(path, "network that fits together"):
        if model is None:
            model = zoo.create(header["model"]["name"], **header["model"]["arguments"])
        state = OrderedDict(tensors)
        # What modules told of their own versions, which older files do not hold.
        versions = {path: {"version": version} for path, version in header.get("versions", {}).items()}
        state._metadata = versions  # type: ignore[attr-defined]
        net, about = _build(model, header, state), header_field(header, "spec", dict, None)
        _check_types(net, tensors)
        net.load_state_dict(state)
        if isinstance(net, TaperedNet) and header.get(CASCADE) is not None:
            net.options[CASCADE] = header_field(header, CASCADE, dict)
        spec = None if about is None else _spec(about)
    return net.eval(), spec


def _check_types(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises FileError for whole numbers in the place of others: torch would convert them without a word."""
    for name, own in net.state_dict().items():
        found = tensors.get(name)
        if found is not None and found.is_floating_point() != own.is_floating_point():
            raise FileError(f"{name} is of {found.dtype}, not {own.dtype}")


def known_shape(net: nn.Module) -> list[int] | None:
    """(channels, height, width) of the inputs of a network from `taper`, `terminate` or the zoo; None for others."""
    shape: Any = getattr(net, "input_shape", None)
    entry: Any = getattr(net, "zoo_entry", None)
    if shape is None and entry is not None:
        default = inspect.signature(zoo.NETWORKS[entry["name"]]).parameters["input_shape"].default
        shape = entry["arguments"].get("input_shape", default)
    return None if shape is None else list(shape)


def input_shape(net: nn.Module) -> list[int]:
    """The known shape; raises ConfigError for a network that has none."""
    shape = known_shape(net)
    if shape is None:
        raise ConfigError(f"{type(net).__name__} is a plain network that is not from the zoo: what this library would "
                          f"keep of it are its weights alone (safetensors.torch.save_model does that)")  # fmt: skip
    return shape


def _build(model: nn.Module, header: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The network that the header describes; its weights are still to be loaded."""
    net, example = model, torch.zeros(1, *header["input_shape"])
    if header["pruned"] is not None:
        net = prune_filters(net, example, method="pfec", keep=header["pruned"])
    if header["taper"] is not None:
        net = taper(net, example, **_options(header["taper"]))
    if header["terminate"] is not None:
        # It runs the network, for which batch-norm per budget needs its statistics.
        net.load_state_dict(tensors, strict=False)
        net = terminate(net, example, **header["terminate"])
    return net


def _options(options: dict[str, Any]) -> dict[str, Any]:
    profile = options["profile"]
    if isinstance(profile, dict):  # JSON turned the budgets into strings
        profile = {float(upper): p for upper, p in profile.items()}
    return {**options, "profile": profile}


def _spec(spec: dict[str, Any]) -> InputSpec:
    numbers = {}
    for name in ("mean", "std"):
        values = header_field(spec, name, list)
        if not values or not all(isinstance(v, float | int) and math.isfinite(v) for v in values):
            raise FileError(f"{name} holds finite numbers, not {values!r}")
        numbers[name] = tuple(float(v) for v in values)
    names = header_field(spec, "class_names", list)
    if not all(isinstance(name, str) for name in names):
        raise FileError(f"class_names holds names, not {names!r}")
    return InputSpec(**numbers, class_names=tuple(names), data=header_field(spec, "data", str, None))
