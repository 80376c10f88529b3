"""What tells one training run from another."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from tapernet.data import ImageData
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import terminating_layers

DIGEST_IMAGES = 64
"""So many tell one data set from another, spread over it; all would take as long as an epoch of a small network."""


def chosen(options: Any) -> str:
    """A dataclass as its constructor with what differs from the defaults, which later options do not change."""
    given = [(f.name, getattr(options, f.name)) for f in fields(options) if getattr(options, f.name) != f.default]
    return f"{type(options).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"


def digest(net: nn.Module | None, teacher: nn.Module | None, parts: Sequence[ImageData]) -> str:
    """Of what decides a run beside its options: how the network is cut, a teacher, the labels, and some images."""
    options = net.options if isinstance(net, TaperedNet) else {}
    cut = [options.get(key) for key in ("profile", "keep", "multiple")]
    # Rounded, since sums over all images depend on the number of threads.
    scales = [[round(value, 4) for value in (*data.mean, *data.std)] for data in parts]
    found = hashlib.sha256(json.dumps([cut, scales]).encode())
    for data in parts:
        some = torch.linspace(0, len(data) - 1, DIGEST_IMAGES).long()
        found.update(_bytes(data.labels))
        found.update(_bytes(data.images[some].double()))
    for tensor in () if teacher is None else teacher.state_dict().values():
        found.update(_bytes(tensor.double()))
    return found.hexdigest()


def stops(net: nn.Module) -> str:
    """Of how a network's layers stop early: their options and checks, as they are before training."""
    layers = {
        path: [chosen(layer.options), [check.as_dict() for check in layer.checks]]
        for path, layer in terminating_layers(net).items()
    }
    return hashlib.sha256(json.dumps(layers).encode()).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().numpy().tobytes()
