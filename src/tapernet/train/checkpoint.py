"""Checkpoints: everything that a run needs to go on as if it had not been stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tapernet.errors import ConfigError
from tapernet.files import header_field, read_tensors, reading, write_tensors
from tapernet.train.early_stopping import EarlyStopping

VERSION = 1
KIND = "training checkpoint"


@dataclass
class RunState:
    """Where a run stands at the end of an epoch.

    Args:
        finished: epochs that each finished stage took.
        epoch: epochs done of the stage at hand.
        stopper: its early stopping.
        history: one row of metrics for each epoch.
        seconds: training time so far.
        done: no stage is left.
    """

    stopper: EarlyStopping
    finished: list[int] = field(default_factory=list)
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    done: bool = False


def save_checkpoint(
    path: Path,
    run: str,
    content: str,
    stops: str,
    state: RunState,
    net: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: the file.
        run: what identifies the run; a checkpoint of another is refused.
        content: a digest of the rest that does: the images, and how the network is cut.
        stops: a digest of how its layers stop early.
        state: where it stands.
        net: the whole network's state.
        best: the best state of the stage at hand; empty without early stopping.
        optimizers: as the stage uses them.
    """
    tensors = {f"net.{k}": v for k, v in net.items()} | {f"best.{k}": v for k, v in best.items()}
    for i, optimizer in enumerate(optimizers):
        for j, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in slots.items() if isinstance(v, Tensor)}
    identity = {"kind": KIND, "version": VERSION, "run": run, "content": content, "stops": stops}
    write_tensors(path, tensors, {**identity, "state": asdict(state)})


@dataclass
class Checkpoint:
    """A checkpoint as read."""

    state: RunState
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix: "net" or "best"."""
        start = prefix + "."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}

    def restore_optimizers(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Gives the optimizers the state that they had."""
        for i, optimizer in enumerate(optimizers):
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in self.part(f"optimizer.{i}").items():
                j, name = key.split(".", 1)
                slots.setdefault(int(j), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def load_checkpoint(path: Path, run: str, content: str, stops: str) -> Checkpoint:
    """Reads a checkpoint; one from before there was `content` or `stops` is not asked for it.

    Raises:
        FileError: not a whole checkpoint, or one that has changed since it was written.
        ConfigError: it belongs to another run.
    """
    tensors, header = read_tensors(path, kind=KIND, version=VERSION)
    if header.get("run") != run:
        raise ConfigError(
            f"{path} belongs to a run with other settings; choose another folder or delete it.\n"
            f"there: {header.get('run')}\nhere:  {run}"
        )
    if header.get("content", content) != content:
        raise ConfigError(f"{path} belongs to a run on other images, with another teacher, or of a network with "
                          f"another profile, keep or multiple; choose another folder or delete it")  # fmt: skip
    if header.get("stops", stops) != stops:
        raise ConfigError(f"{path} belongs to a run of a network whose layers stop early in another way (other checks, "
                          f"another order or gradient); choose another folder or delete it")  # fmt: skip
    with reading(path, KIND):
        state = header_field(header, "state", dict)
        for name, kind in (("finished", list), ("epoch", int), ("history", list), ("seconds", float), ("done", bool)):
            header_field(state, name, kind)
        stopper = EarlyStopping(**header_field(state, "stopper", dict))
        return Checkpoint(RunState(**{**state, "stopper": stopper}), tensors)
