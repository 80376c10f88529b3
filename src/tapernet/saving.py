"""Networks with a dial as files: one safetensors file whose JSON header says how to build the network again."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tapernet import zoo
from tapernet.convert.taper import taper
from tapernet.errors import ConfigError, FileError
from tapernet.files import read_tensors, write_tensors
from tapernet.nn.net import TaperedNet

KIND = "tapered network"
VERSION = 1


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


def save(net: TaperedNet, path: str | Path, spec: InputSpec | None = None) -> None:
    """Writes the network, atomically.

    Args:
        net: the network; one whose model is not from the zoo is loaded with `load(path, model=...)`.
        path: the file, by custom ending in .safetensors.
        spec: how its images were prepared; kept for whoever loads it.

    Raises:
        FileError: the folder cannot be written, or the disk is full.
    """
    header = {
        "kind": KIND,
        "version": VERSION,
        "model": getattr(net.model, "zoo_entry", None),
        "input_shape": list(net.input_shape),
        "taper": net.options,
        "spec": None if spec is None else asdict(spec),
    }
    write_tensors(path, net.state_dict(), header)


def load(path: str | Path, model: nn.Module | None = None) -> TaperedNet:
    """Reads a network that `save` wrote. No code from the file is run.

    Args:
        path: the file.
        model: the untrained model that was tapered; needed if it is not from the zoo.

    Raises:
        FileError: missing, truncated, foreign, or of a future version; or its tensors are not those of the network.
        ConfigError: the model is not from the zoo and none was given.
    """
    return load_with_spec(path, model)[0]


def load_with_spec(path: str | Path, model: nn.Module | None = None) -> tuple[TaperedNet, InputSpec | None]:
    """As `load`, with how the images were prepared."""
    tensors, header = read_tensors(path, kind=KIND, version=VERSION)
    try:
        entry, shape, options, spec = header["model"], header["input_shape"], header["taper"], header["spec"]
        if model is None and entry is None:
            raise ConfigError(f"{path} holds a network whose model is not from the zoo: load(path, model=...)")
        if model is None:
            model = zoo.create(entry["name"], **entry["arguments"])
        net = taper(model, torch.zeros(1, *shape), **_options(options))
        net.load_state_dict(tensors)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise FileError(f"{path} does not fit together: {error}") from error
    return net.eval(), None if spec is None else _spec(spec)


def _options(options: dict[str, Any]) -> dict[str, Any]:
    profile = options["profile"]
    if isinstance(profile, dict):  # JSON turned the budgets into strings
        profile = {float(upper): p for upper, p in profile.items()}
    return {**options, "profile": profile}


def _spec(spec: dict[str, Any]) -> InputSpec:
    return InputSpec(tuple(spec["mean"]), tuple(spec["std"]), tuple(spec["class_names"]), spec["data"])
