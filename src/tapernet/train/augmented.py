"""Augmented images that come again after some epochs, so that a teacher need say but once what it sees in each."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tapernet.data import ImageData, augment
from tapernet.errors import FileError
from tapernet.files import read_tensors, reading, write_tensors
from tapernet.nn.mode import eval_mode
from tapernet.train.digest import digest
from tapernet.train.settings import Settings

KIND = "a teacher's scores"
VERSION = 1
CHUNK = 512
"""Images that are augmented at a time; the draws depend on it."""


class AugmentedViews:
    """The training images in a few augmented views, a whole view an epoch, one after another and then from the start.

    A teacher's scores of a view are computed when it first comes, and kept: 2 bytes for each class, image and view.

    Args:
        data: the training images.
        settings: how they are augmented and into how many `views`, and the seed.
        teacher: whose scores are wanted, in eval mode and without gradients; None for images alone.
        folder: where its scores are kept for other runs on the same images with the same teacher, augmentation, seed
            and precision; None keeps them for this run alone. A file there that is not whole is made again.
        autocast: enters the precision that the teacher works in.
    """

    def __init__(
        self, data: ImageData, settings: Settings, teacher: nn.Module | None, folder: Path | None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:  # fmt: skip
        self._data, self._settings, self._teacher, self._folder = data, settings, teacher, folder
        self._autocast = autocast
        self._scores: dict[int, Tensor] = {}
        self._number: int | None = None

    def at(self, epoch: int) -> tuple[Tensor, Tensor | None]:
        """The view of an epoch, counted from 0.

        Returns:
            Images (N, C, H, W), valid until the next call, and the teacher's scores (N, classes), if there is one.
        """
        assert self._settings.views is not None
        number = epoch % self._settings.views
        if number != self._number:
            self._augment(number)
            self._number = number
        if self._teacher is not None and number not in self._scores:
            self._scores[number] = self._kept(number, self._teacher)
        return self._images, self._scores.get(number)

    @cached_property
    def _images(self) -> Tensor:
        """The view at hand; one piece of memory for all, as each is as large as the training images."""
        return torch.empty_like(self._data.as_float())

    def _augment(self, number: int) -> None:
        generator = torch.Generator().manual_seed(_seed(f"{self._settings.seed} view {number}"))
        names, black = self._settings.augment, self._data.black
        parts = (torch.split(images, CHUNK) for images in (self._data.as_float(), self._images))
        for some, into in zip(*parts, strict=True):
            into.copy_(augment(some, names, generator, black))

    def _kept(self, number: int, teacher: nn.Module) -> Tensor:
        """The teacher's scores of the view at hand: from the folder, or asked for and put there."""
        if self._folder is None:
            return self._asked(teacher)
        what = [self._settings.augment, self._settings.seed, number, self._settings.precision]
        name = hashlib.sha256(f"{digest(None, teacher, [self._data])} {what}".encode()).hexdigest()[:24]
        path = self._folder / f"{name}.safetensors"
        try:
            tensors, _ = read_tensors(path, kind=KIND, version=VERSION)
            with reading(path, KIND):
                return tensors["scores"]
        except FileError:
            scores = self._asked(teacher)
        write_tensors(path, {"scores": scores}, {"kind": KIND, "version": VERSION})
        return scores

    def _asked(self, teacher: nn.Module) -> Tensor:
        device, parts = next(teacher.parameters()).device, torch.split(self._images, self._settings.batch_size)
        with torch.no_grad(), eval_mode(teacher), self._autocast():
            scores = [teacher(some.to(device)).half().cpu() for some in parts]
        return torch.cat(scores)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
