"""The training loop, one for every recipe, on Lightning Fabric."""

import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tapernet.budget import TEN_BUDGETS
from tapernet.checks import check_images, check_kind, check_scores
from tapernet.convert.calibrate import calibrate, few_batches, measuring
from tapernet.data import ImageData, augment, batches
from tapernet.data.augment import shrink
from tapernet.errors import ConfigError, DataError, TapernetError, TrainingError
from tapernet.files import check_writable, locked
from tapernet.measure.accuracy import accuracies
from tapernet.nn.mode import eval_mode
from tapernet.nn.narrow import narrowed
from tapernet.nn.net import Budget, TaperedNet
from tapernet.train.augmented import AugmentedViews
from tapernet.train.checkpoint import RunState, load_checkpoint, save_checkpoint
from tapernet.train.digest import chosen, digest, stops
from tapernet.train.early_stopping import EarlyStopping
from tapernet.train.objective import ObjectiveLoss, Step
from tapernet.train.recipes import Recipe, Stage
from tapernet.train.recipes.base import Stages
from tapernet.train.report import Report
from tapernet.train.settings import Settings
from tapernet.train.small_maps import SmallMaps

CALIBRATION_IMAGES = 1024
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class History:
    """What a run did.

    Args:
        rows: metrics of each epoch: stage, task, epoch, loss, validation accuracy of each budget.
        epochs: how many each stage took.
        minutes: time spent training.
    """

    rows: list[dict[str, Any]]
    epochs: list[int]
    minutes: float


def fit(
    net: nn.Module,
    train: ImageData,
    val: ImageData,
    recipe: Recipe,
    settings: Settings | None = None,
    *,
    run_dir: str | Path | None = None,
    fabric: Fabric | None = None,
    progress: bool = True,
    teacher: nn.Module | None = None,
    answers: str | Path | None = None,
) -> History:
    """Trains `net` in place by a recipe, and leaves it in eval mode.

    Batch-norm statistics are measured at the end for ten budgets, those that the recipe trained, and those that had
    statistics before, but for budgets per layer without a name.

    Args:
        net: a `TaperedNet`; or any module, for recipes that run budget 1.0 alone.
        train: what it learns from.
        val: held out of train; early stopping and nothing else reads it. The test set has no place here.
        recipe: the objectives, one after another.
        settings: optimizer, batch size and the like.
        run_dir: folder for the checkpoint and the logs (metrics.csv, TensorBoard). A run that was killed goes on from
            its last epoch when it is called again, to the weights of an unbroken one; a finished one returns at once.
        fabric: for devices, precision and processes of your choosing; by default those of `torchrun`, else one process.
        progress: show a progress bar.
        teacher: a trained network, for recipes with a share `taught`; it takes the same images and stays as it is.
        answers: folder where the teacher's scores are kept for other runs, if `settings.views` has it asked but once
            about each view.

    Raises:
        DataError: the images or labels do not fit the network, or the teacher.
        ConfigError: `run_dir` holds another run, or one works in it now; the recipe does not suit the network, or lacks
            its teacher.
        FileError: `run_dir` cannot be written, or its checkpoint is not whole.
        TrainingError: the loss is no longer finite.
    """
    settings = Settings() if settings is None else settings
    check_kind("recipe", recipe, Recipe, "one such as TESLA()")
    check_kind("settings", settings, Settings, "Settings(...)")
    check_kind("fabric", fabric, (Fabric, type(None)), "a Fabric of lightning_fabric")
    for name, path in (("run_dir", run_dir), ("answers", answers)):
        check_kind(name, path, (str, os.PathLike, type(None)), "a folder's path")
    if run_dir is not None:
        check_writable(Path(run_dir) / CHECKPOINT)
    _check_data(net, train, val, settings)
    if teacher is not None:
        _check_teacher(teacher, net, train)
    fabric = fabric or make_fabric(settings.precision)
    folder, kept = (None if path is None else Path(path) for path in (run_dir, answers))
    run = _Run(net, train, val, recipe, settings, fabric, folder, teacher, kept)
    alone = nullcontext() if run.log_folder is None else locked(run.log_folder)
    with alone, torch.random.fork_rng(devices=[]), Report(run.log_folder, progress and fabric.is_global_zero) as report:
        run.go(report)
    return History(run.state.history, run.state.finished, run.state.seconds / 60)


def make_fabric(precision: str = "32-true") -> Fabric:
    """Fabric for the processes that `torchrun` started, or for this one alone.

    Raises:
        ConfigError: a precision that Fabric does not know or cannot have here.
    """
    try:
        return _make_fabric(precision)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"precision {precision!r}: {error}") from error


def _make_fabric(precision: str) -> Fabric:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Fabric(accelerator="auto", devices=1, precision=precision)  # type: ignore[arg-type]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    fabric = Fabric(
        accelerator="auto", strategy="ddp", devices=local, num_nodes=world // local, precision=precision  # type: ignore[arg-type]
    )  # fmt: skip
    fabric.launch()
    return fabric


def _check_data(net: nn.Module, train: ImageData, val: ImageData, settings: Settings) -> None:
    for name, data in (("train", train), ("val", val)):
        check_images(name, data)
        check_scores(net, data.as_float(), data.classes)
    if train.shape != val.shape or train.classes != val.classes:
        raise DataError("training and validation data differ in image shape or classes")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ConfigError("no parameter of the network learns: requires_grad is off for all of them")
    if settings.sides:
        images = train.as_float()[:2].to(next(net.parameters()).device)
        with measuring(net) if isinstance(net, TaperedNet) else eval_mode(net), torch.no_grad():
            for _, pixels in settings.sides:
                _check_side(net, images, pixels)


def _check_teacher(teacher: nn.Module, net: nn.Module, train: ImageData) -> None:
    if teacher is net:
        raise ConfigError("the teacher is the network itself: give a copy, which training does not change")
    check_scores(teacher, train.as_float(), train.classes, "the teacher")


def _least_batch(net: nn.Module, images: int, batch_size: int, processes: int) -> int:
    """Images that every batch needs: two in each process where batch-norm takes the variance over the batch.

    Raises:
        ConfigError: the batches or the data set have fewer.
    """
    least = 2 * processes if any(isinstance(m, _BatchNorm) for m in net.modules()) else 1
    for what, count in (("batch_size is", batch_size), ("the images to train on are", images)):
        if count < least:
            raise ConfigError(f"{what} {count}, but batch-norm needs two images in a batch, in each of {processes} "
                              f"processes: {least} at least")  # fmt: skip
    return least


def _check_side(net: nn.Module, images: Tensor, pixels: int) -> None:
    try:
        net(shrink(images, pixels))
    except (RuntimeError, TapernetError) as error:
        raise ConfigError(f"the network does not take images of {pixels} pixels a side: {error}") from error


class _Run:
    """One call of `fit`."""

    def __init__(
        self, net: nn.Module, train: ImageData, val: ImageData, recipe: Recipe, settings: Settings, fabric: Fabric,
        folder: Path | None, teacher: nn.Module | None, answers: Path | None,
    ) -> None:  # fmt: skip
        self.teacher = teacher if teacher is None else teacher.to(fabric.device)
        self.net, self.recipe, self.settings, self.fabric, self.folder = net, recipe, settings, fabric, folder
        net.to(fabric.device)
        if settings.channels_last:
            # A convolution takes the layout of its weight, whatever that of the images.
            for module in (net, self.teacher) if self.teacher else (net,):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.least = _least_batch(net, len(train), settings.batch_size, fabric.world_size)
        # Batch-norm statistics are measured when they are needed and dropped again: checkpoints hold weights alone.
        self.measured: list[Budget] = [*TEN_BUDGETS, *(net.calibrated_budgets() if isinstance(net, TaperedNet) else ())]
        self._forget_statistics()
        self.images, self.labels, self.black = train.as_float(), train.labels, train.black
        self.views = AugmentedViews(train, settings, self.teacher, answers, fabric.autocast) if settings.views else None
        self.val_images, self.val_labels = val.as_float(), val.labels
        self.state = RunState(EarlyStopping(None))
        self.best: dict[str, Tensor] = {}
        self.whole: dict[str, Tensor] = {}
        shapes = [tuple(t.shape) for t in net.state_dict().values()]
        name = f"{chosen(recipe)}, {chosen(settings)}, {len(train)} and {len(val)} images, {shapes}"
        self.identity = (name, digest(net, teacher, [train, val]), stops(net))

    @property
    def log_folder(self) -> Path | None:
        """Where this process writes logs; one process of several does."""
        return self.folder if self.fabric.is_global_zero else None

    def go(self, report: Report) -> None:
        """Runs the stages that are left."""
        # Closed even after an error, so that a recipe takes back what it did to the network for a stage.
        with closing(self.recipe.stages(self.net, self.settings.seed)) as stages:
            self._run(stages, report)
        self._calibrate(dict.fromkeys(self.measured))
        self.net.eval()

    def _run(self, stages: Stages, report: Report) -> None:
        path = None if self.folder is None else self.folder / CHECKPOINT
        stage = self._next(stages, None)
        # These are the network's own tensors, and with the recipe begun all that learn: while a stage works on narrowed
        # views of them, they stay up to date.
        self.whole = self.net.state_dict()
        resumed = load_checkpoint(path, *self.identity) if path and path.exists() else None
        if resumed:
            self.state, self.best = resumed.state, resumed.part("best")
            _copy(resumed.part("net"), self.whole)
            report.replay(self.state.history)
        for epochs in self.state.finished:
            stage = self._next(stages, epochs)
        while stage is not None and not self.state.done:
            if not resumed:
                self.state.stopper, self.state.epoch = EarlyStopping(stage.patience), 0
            with self._stage(stage) as (loss, optimizers):
                if resumed:
                    resumed.restore_optimizers(optimizers)
                    resumed = None
                report.stage(stage, self.state.epoch)
                while self.state.epoch < stage.max_epochs and not self.state.stopper.exhausted:
                    self._epoch(stage, loss, optimizers, report)
                    self._save(path, optimizers)
                if self.best:
                    _copy(self.best, self.net.state_dict())
                self.best = {}
            self.state.finished.append(self.state.epoch)
            stage = self._next(stages, self.state.epoch)
            self.state.done = stage is None
            self.state.epoch, self.state.stopper = 0, EarlyStopping(stage.patience if stage else None)
            self._save(path, [])

    def _next(self, stages: Any, epochs: int | None) -> Stage | None:
        """The stage after one that took so many epochs, its budgets noted; None if none is left."""
        try:
            stage: Stage = stages.send(epochs)
        except StopIteration:
            return None
        self.measured += stage.objective.budgets
        return stage

    def _calibrate(self, budgets: Iterable[Budget]) -> None:
        """Measures batch-norm statistics on the first training images, the same ones in every process."""
        if isinstance(self.net, TaperedNet):
            images = few_batches(self.images, CALIBRATION_IMAGES, self.settings.batch_size)
            calibrate(self.net, (self.fabric.to_device(x) for x in images), budgets)

    def _forget_statistics(self) -> None:
        if isinstance(self.net, TaperedNet):
            for layer in self.net.batch_norms():
                layer.forget()

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[tuple[nn.Module, list[torch.optim.Optimizer]]]:
        """The stage's loss and optimizers: one for the weights and, with a trainable profile, one for the profile."""
        with ExitStack() as stack:
            weights, profiles = list(self.net.parameters()), []
            if isinstance(self.net, TaperedNet):
                weights = stack.enter_context(narrowed(self.net, stage.objective.largest, stage.frozen))
                profiles = self.net.profiles()
            optimizers = [self.settings.make_optimizer(weights)]
            if profiles:
                optimizers.append(torch.optim.Adam(profiles, self.settings.profile_lr))
            # The network is on its device already, and moving it would part the narrowed weights from the whole ones.
            objective = stage.objective
            if bool(objective.taught) != (self.teacher is not None):
                there = "no teacher" if self.teacher is None else "a teacher"
                raise ConfigError(f"{stage.task}: a share that is taught and a teacher need each other, but the recipe "
                                  f"says {objective.taught}, and there is {there}")  # fmt: skip
            loss = ObjectiveLoss(self.net, objective, None if self.views else self.teacher)
            wrapped = self.fabric.setup(loss, *optimizers, move_to_device=False)
            if self.settings.precision == "bf16-mixed":
                stack.enter_context(SmallMaps())
            yield wrapped[0], list(wrapped[1:])

    def _epoch(self, stage: Stage, loss: nn.Module, optimizers: list[torch.optim.Optimizer], report: Report) -> None:
        started = time.perf_counter()
        state, settings = self.state, self.settings
        rank, world = self.fabric.global_rank, self.fabric.world_size
        # Seeded by where the run stands, so that a resumed run draws what an unbroken one would have drawn.
        seed = random.Random(f"{settings.seed} {len(state.finished)} {state.epoch}").getrandbits(62)
        shared, rng = torch.Generator().manual_seed(seed), random.Random(seed)
        torch.manual_seed(seed + rank)
        self.net.train()
        total, seen = torch.zeros((), device=self.fabric.device), 0
        parts = batches(len(self.labels), settings.batch_size, shared, self.least)
        steps = len(parts)
        side = settings.side_at(state.epoch)
        whole, changes, scores = self.images, settings.augment, None
        if self.views:
            (whole, scores), changes = self.views.at(state.epoch), ()
        for done, indices in enumerate(parts):
            lr = settings.lr_at(state.epoch + done / steps, stage.max_epochs)
            for group in optimizers[0].param_groups:
                group["lr"] = lr
            images = augment(whole[indices], changes, shared, self.black)[rank::world]
            if side is not None:
                images = shrink(images, side)
            labels = self.labels[indices][rank::world]
            given = None if scores is None else self.fabric.to_device(scores[indices][rank::world])
            # Processes average their gradients, so dividing by the mean share makes the sum the whole batch's mean.
            step = Step(stage.objective.draw(rng), len(indices) / world)
            value = loss(self.fabric.to_device(images), self.fabric.to_device(labels), step, given)
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.fabric.backward(value)
            turn = (state.epoch * steps + done) % len(optimizers)  # going on from epoch to epoch
            optimizers[turn].step()
            if turn == 1:
                assert isinstance(self.net, TaperedNet)
                self.net.order_profiles(settings.profile_order)
            total += value.detach() * len(indices)
            seen += len(indices)
            report.step(done, steps)
        total = self.fabric.all_reduce(total, reduce_op="mean")  # type: ignore[assignment]
        mean = float(total) / seen
        if not isfinite(mean):
            raise TrainingError(f"the loss of {stage.task} is {mean} in epoch {state.epoch + 1}; a lower lr may help")
        self._validate(stage, mean)
        state.epoch += 1
        state.seconds += time.perf_counter() - started
        report.epoch(state.history[-1])

    def _validate(self, stage: Stage, loss: float) -> None:
        """Appends the epoch's row, and keeps the weights if they are the best so far."""
        budgets = stage.objective.budgets
        with self.fabric.autocast():  # in the precision of the training, which is much faster where it is a lower one
            self._calibrate(budgets)
            found = accuracies(self.net, self.val_images, self.val_labels, budgets)
        self._forget_statistics()
        total = sum(stage.objective.weights.values())
        joint = sum(stage.objective.weights[b] * a for b, a in zip(budgets, found, strict=True)) / total
        if self.state.stopper.improved(joint) and stage.patience is not None:
            self.best = {k: v.clone() for k, v in self.net.state_dict().items()}
        self.state.history.append(
            {"stage": len(self.state.finished), "task": stage.task, "epoch": self.state.epoch + 1, "loss": loss,
             "val": joint} | {f"val_{b * 100:.0f}": a for b, a in zip(budgets, found, strict=True)}
        )  # fmt: skip

    def _save(self, path: Path | None, optimizers: list[torch.optim.Optimizer]) -> None:
        if path is not None and self.fabric.is_global_zero:
            save_checkpoint(path, *self.identity, self.state, self.whole, self.best, optimizers)
        self.fabric.barrier()


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
