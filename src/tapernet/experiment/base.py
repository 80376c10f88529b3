"""Training with one budget inside experiments: the network that several curves start from, and fine-tuning."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tapernet.data import ImageData, Splits
from tapernet.errors import ConfigError
from tapernet.experiment.common import ModelConfig, commits, input_spec, make_plain, open_teacher
from tapernet.saving import InputSpec, save
from tapernet.train.loop import History, fit
from tapernet.train.recipes import FineTune
from tapernet.train.settings import Settings

NETWORK = "net.safetensors"
ANSWERS = "answers"
"""Folder of what teachers say, in that of an experiment's runs."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training at budget 1.0.

    Args:
        epochs: all are run, and the last weights kept.
        settings: optimizer, batch size and the like; the seed is the experiment's.
        mac_penalty: factor of the share of MACs done in the loss.
        taught: share of the labels that a teacher gives.
        taught_temperature: of what it gives.
        teacher: file of a plain network, or the name of a trained one; the network at the start of all curves if empty.
        threshold_scale: of what the checks' thresholds learn; 0 leaves them where they were placed.
    """

    epochs: int
    settings: Settings = field(default_factory=Settings)
    mac_penalty: float = 0.0
    taught: float = 0.0
    taught_temperature: float = 1.0
    teacher: str = ""
    threshold_scale: float = 0.0


@dataclass(frozen=True)
class Split:
    """What a run learns from, and with which seed.

    Args:
        train: images.
        val: held out of them.
        seed: of everything random.
        spec: how the images were prepared, to be saved with networks.
    """

    train: ImageData
    val: ImageData
    seed: int
    spec: InputSpec

    @staticmethod
    def of(splits: Splits, validation: int, seed: int, source: str) -> "Split":
        """Of a data set: `validation` training images, drawn by the seed, are held out."""
        train, val = splits.train.split(validation, seed=seed)
        return Split(train, val, seed, input_spec(train, source))


def train_phase(
    net: nn.Module, phase: Phase, data: Split, folder: Path, answers: Path, start: Callable[[], nn.Module] | None = None
) -> History:
    """Trains `net` in place, or goes on where a stopped run was, and leaves it in the folder as `NETWORK`.

    Args:
        net: what is trained.
        phase: how.
        data: on what.
        folder: of this training alone.
        answers: folder that trainings share, for what their teachers say.
        start: gives the network at the start of all curves; None before there is one.

    Raises:
        ConfigError: a phase without a teacher that is taught before there is such a network; a teacher that knows other
            images.
    """
    recipe = FineTune(
        epochs=phase.epochs, mac_penalty=phase.mac_penalty, taught=phase.taught,
        taught_temperature=phase.taught_temperature, threshold_scale=phase.threshold_scale,
    )  # fmt: skip
    settings = replace(phase.settings, seed=data.seed)
    teacher = _teacher(phase, data, start)
    commits(folder)
    history = fit(net, data.train, data.val, recipe, settings, run_dir=folder, teacher=teacher, answers=answers)
    if not (folder / NETWORK).exists():
        save(net, folder / NETWORK, data.spec)
    return history


def _teacher(phase: Phase, data: Split, start: Callable[[], nn.Module] | None) -> nn.Module | None:
    if not phase.taught:
        return None
    if phase.teacher:
        return open_teacher(phase.teacher, data.spec)
    if start is None:
        raise ConfigError("base: a share of the labels is taught, but no teacher is named")
    return start()


def new_network(model: ModelConfig, data: Split) -> nn.Module:
    """An untrained network of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        return make_plain(model, data.train)


def trained_base(model: ModelConfig, phase: Phase, data: Split, runs: Path) -> nn.Module:
    """The plain network that the curves of one seed start from; trained once, in a folder of its own."""
    net = new_network(model, data)
    train_phase(net, phase, data, base_folder(data, runs), runs / ANSWERS)
    return net


def base_folder(data: Split, runs: Path) -> Path:
    """Where `trained_base` works."""
    return runs / "base" / f"seed{data.seed}"


def plain_phase(phase: Phase) -> dict[str, Any]:
    """What decides a phase's outcome, as JSON can hold it; the seed stands elsewhere."""
    plain = asdict(phase)
    del plain["settings"]["seed"]
    return plain
