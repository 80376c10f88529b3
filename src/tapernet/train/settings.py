"""What a recipe leaves open: optimizer, batch size, augmentation, seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import nn

from tapernet.checks import check_flag, check_kind, check_number, check_numbers
from tapernet.data.augment import AUGMENTATIONS
from tapernet.errors import ConfigError
from tapernet.profile import PROFILE_ORDERS
from tapernet.registry import unknown

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Settings:
    """How the steps of a recipe are taken.

    Args:
        batch_size: images in a step, over all processes.
        optimizer: one of `OPTIMIZERS`; SGD uses Nesterov momentum.
        lr: learning rate, at its highest.
        schedule: "constant", or "cosine": falls to 0 over the longest that a stage can take.
        warmup: epochs over which the learning rate rises from 0 at the start of each stage.
        momentum: of SGD.
        weight_decay: of the weights (the profile has none).
        profile_lr: Adam's learning rate for a trainable profile.
        profile_order: one of `tapernet.profile.PROFILE_ORDERS`: "cumulative-minimum" as in the paper, or "isotonic".
        augment: names of augmentations, in the order in which they are applied.
        views: of each image there are so many augmented views, one an epoch in turn, in place of a new one every epoch;
            a teacher is then asked once about each. None for new ones.
        sides: (epochs, pixels) pairs: images of each stage's first epochs are shrunk to so many pixels a side, then to
            the next pair's, and are whole after the last. An epoch at half the side takes about a quarter of the time;
            the network must take every size. Validation is at the whole size.
        channels_last: keep weights and activations in memory with the channels innermost, which convolutions on a
            CPU often prefer. The network stays so.
        precision: of Fabric: "32-true", "bf16-mixed", ...
        seed: of the shuffling, the augmentation and everything else that is random.
    """

    batch_size: int = 128
    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "constant"
    warmup: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    profile_lr: float = 1e-3
    profile_order: str = "cumulative-minimum"
    augment: tuple[str, ...] = ()
    views: int | None = None
    sides: tuple[tuple[int, int], ...] = ()
    channels_last: bool = False
    precision: str = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        check_kind("augment", self.augment, (tuple, list), "a tuple of names")
        names: tuple[tuple[str, str, Iterable[str]], ...] = (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("profile_order", self.profile_order, PROFILE_ORDERS),
            *(("augmentation", name, AUGMENTATIONS) for name in self.augment),
        )
        for kind, name, valid in names:
            if name not in tuple(valid):
                raise ConfigError(unknown(kind, name, valid))
        check_kind("precision", self.precision, str, "a name such as '32-true'")
        check_flag("channels_last", self.channels_last)
        check_number("batch_size", self.batch_size, 1, whole=True)
        check_number("seed", self.seed, 0, 2**63 - 1, whole=True)
        if self.views is not None:
            check_number("views", self.views, 1, whole=True)
        for field in ("lr", "profile_lr"):
            check_number(field, getattr(self, field), 0, above=True)
        for field in ("warmup", "weight_decay"):
            check_number(field, getattr(self, field), 0)
        check_number("momentum", self.momentum, 0, 1)
        check_kind("sides", self.sides, (tuple, list), "pairs of epochs and pixels")
        for pair in self.sides:
            check_numbers("sides: epochs and pixels", pair, 2, low=1, whole=True)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over the network's weights."""
        parameters = list(parameters)
        # The fused kernels walk memory in one stretch, and are wrong for a prefix whose rows lie apart.
        fused = all(p.is_contiguous() for p in parameters)
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.momentum > 0,
                fused=fused,
            )  # fmt: skip
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, self.lr, weight_decay=self.weight_decay, fused=fused)

    def lr_at(self, epoch: float, epochs: int) -> float:
        """The learning rate after `epoch` (a fraction within the epoch counts) of a stage's `epochs`."""
        rise = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        fall = (1 + cos(pi * epoch / epochs)) / 2 if self.schedule == "cosine" else 1.0
        return self.lr * rise * fall

    def side_at(self, epoch: int) -> int | None:
        """Pixels to which images are shrunk in an epoch of a stage, counted from 0; None leaves them whole."""
        for epochs, pixels in self.sides:
            if epoch < epochs:
                return pixels
            epoch -= epochs
        return None
