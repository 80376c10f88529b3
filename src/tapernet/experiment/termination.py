"""Figures of accuracy against MACs: early termination, its control, and the pruning baselines.

One network is trained for each seed, and every curve starts from it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tapernet.data import Splits, load_data
from tapernet.errors import ConfigError
from tapernet.experiment.base import ANSWERS, Phase, Split, base_folder, plain_phase, train_phase, trained_base
from tapernet.experiment.common import Job, ModelConfig, Results, as_json, chosen, commits, hardware, slug
from tapernet.experiment.methods import METHODS
from tapernet.measure.accuracy import accuracies
from tapernet.measure.macs import total_macs
from tapernet.measure.termination import TerminationReport, count_termination
from tapernet.nn.terminating import terminating_layers
from tapernet.registry import unknown
from tapernet.saving import load, save


@dataclass(frozen=True)
class CurveConfig:
    """One curve.

    Args:
        name: unique in its figure.
        method: one of `METHODS`.
        options: of the method.
        points: what the method takes from point to point: a tolerance, or a share of filters.
        training: "tuning" for the experiment's fine-tuning, "base" for its base training, "none", or one of its phases.
        mac_penalty: factor of the share of MACs done in the loss; null, here and below, is the training's own.
        threshold_scale: of what the checks' thresholds learn in the training.
        taught: share of the labels in the training that its teacher gives.
        paper: the paper's points, as MACs and accuracy in [0, 1].
    """

    name: str
    method: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    points: list[float] = field(default_factory=lambda: [0.0])
    training: str = "tuning"
    mac_penalty: float | None = None
    threshold_scale: float | None = None
    taught: float | None = None
    paper: list[list[float]] | None = None


@dataclass(frozen=True)
class Experiment:
    """A figure's curves.

    Args:
        kind: "termination".
        title: of the figure.
        data: where the data set is, unless the command line says.
        base: training of the network that all curves start from.
        tuning: fine-tuning.
        curves: in the order in which they are run, for one seed after another.
        model: the network.
        validation: training images held out, drawn anew for each seed.
        seeds: of the base training, and of all that follows.
        phases: more trainings that curves may ask for, by their names.
    """

    kind: str
    title: str
    data: str
    base: Phase
    tuning: Phase
    curves: list[CurveConfig]
    model: ModelConfig = field(default_factory=lambda: ModelConfig("c10net"))
    validation: int = 5000
    seeds: list[int] = field(default_factory=lambda: [0])
    phases: dict[str, Phase] = field(default_factory=dict)


def reproduce(experiment: Experiment, job: Job) -> None:
    """See `tapernet.experiment.reproduce`; a piece is one point of one curve for one seed."""
    configs = chosen(experiment.curves, job.only)
    for config in configs:
        METHODS[config.method]  # an unknown name is told before hours of training
    splits = load_data(job.data or experiment.data)
    results = Results(job.result, experiment.title, [c.name for c in experiment.curves])
    usual = {"base": plain_phase(Phase(0)), "training": plain_phase(Phase(0)), "model": asdict(ModelConfig())}
    for config in configs:
        results.begin(_empty(experiment, config), usual)
    for seed in experiment.seeds:
        start = _Start(experiment, splits, seed, job.runs)
        for config in configs:
            for point in config.points:
                points = results.curve(config.name)["points"]
                if any((p["seed"], p["point"]) == (seed, point) for p in points):
                    continue
                job.say(f"{config.name}, {point:g}, seed {seed}")
                measured = start.measured(config, point, points)
                with results.adding(config.name) as curve:
                    curve["points"].append(measured)
                job.say(f"  accuracy {measured['accuracy']:.4f} at {measured['macs']:,.0f} MACs")


class _Start:
    """One seed: its split of the data and its trained network."""

    def __init__(self, experiment: Experiment, splits: Splits, seed: int, runs: Path) -> None:
        self.experiment, self.runs, self.test = experiment, runs, splits.test
        self.data = Split.of(splits, experiment.validation, seed, experiment.data)

    def measured(self, config: CurveConfig, point: float, others: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Makes, trains and measures one point; what is there already is not made again.

        Args:
            config: of the curve.
            point: of the curve.
            others: its points that were measured; one that starts from the same network ends where this one would.
        """
        folder = self.runs / slug(config.name) / f"seed{self.data.seed}" / f"{point:g}"
        net = self._made(config, point, folder / "before.safetensors")
        after = before = as_json(self._measure(net))
        history = None
        same = next((p for p in others if (p["seed"], p["before"]) == (self.data.seed, before)), None)
        if same is not None:
            return {**same, "point": point}
        phase = _phase(self.experiment, config)
        if phase is not None:
            history = train_phase(net, phase, self.data, folder, self.runs / ANSWERS, self._base)
            after = self._measure(net)
        return {
            "seed": self.data.seed, "point": point, **after, "before": before,
            "minutes": round(history.minutes, 2) if history else 0.0,
            "validation": history.rows[-1]["val"] if history else None, "hardware": hardware(),
            "commit": commits(base_folder(self.data, self.runs), folder),
        }  # fmt: skip

    def _made(self, config: CurveConfig, point: float, path: Path) -> nn.Module:
        """The network of a point before its training."""
        if not path.exists():
            commits(path.parent)
            base = self._base().eval()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.data.seed)
                made = METHODS[config.method](base, point, self.data.train, **config.options)
            save(made, path, self.data.spec)
        return load(path)

    def _base(self) -> nn.Module:
        """The network that all curves start from."""
        return trained_base(self.experiment.model, self.experiment.base, self.data, self.runs)

    def _measure(self, net: nn.Module) -> dict[str, Any]:
        """Accuracy and MACs of one test image, the bias counted."""
        images = self.test.as_float()
        (accuracy,) = accuracies(net, images, self.test.labels, [1.0])
        found: dict[str, Any] = {"accuracy": accuracy, "macs": total_macs(net.eval(), images[0]).paper, "saved": 0.0}
        if any(layer.checks for layer in terminating_layers(net).values()):
            report = count_termination(net, images)
            found |= {"macs": report.done, "saved": report.saved, "layers": _decisions(net, report)}
        return found


def _decisions(net: nn.Module, report: TerminationReport) -> list[dict[str, Any]]:
    """Where each terminating layer looks, and what came of it."""
    layers = terminating_layers(net)
    return [
        {
            "path": layer.path, "checks": [check.as_dict() for check in layers[layer.path].checks],
            "total": layer.total, "done": layer.done,
            "situations": {name: asdict(situation) for name, situation in layer.situations.items()},
        }
        for layer in report.layers
    ]  # fmt: skip


def _phase(experiment: Experiment, config: CurveConfig) -> Phase | None:
    phases: dict[str, Phase | None] = {"tuning": experiment.tuning, "base": experiment.base, "none": None}
    taken = sorted(phases.keys() & experiment.phases.keys())
    if taken:
        raise ConfigError(f"phases: {', '.join(taken)} has its meaning already; choose another name")
    phases |= experiment.phases
    if config.training not in phases:
        raise ConfigError(unknown("training", config.training, phases))
    phase = phases[config.training]
    if phase is None:
        return None
    own = {name: getattr(config, name) for name in ("mac_penalty", "threshold_scale", "taught")}
    return replace(phase, **{name: value for name, value in own.items() if value is not None})


def _empty(experiment: Experiment, config: CurveConfig) -> dict[str, Any]:
    return {
        "name": config.name, "dataset": experiment.data, "model": experiment.model.name, "method": config.method,
        "paper": config.paper, "points": [], "config": _plain(experiment, config),
    }  # fmt: skip


def _plain(experiment: Experiment, config: CurveConfig) -> Any:
    """What decides a curve's numbers, as JSON; points may be added."""
    phase = _phase(experiment, config)
    phases = {"base": plain_phase(experiment.base), "training": phase and plain_phase(phase)}
    return as_json({
        **phases, "method": config.method, "options": config.options, "model": asdict(experiment.model),
        "validation": experiment.validation,
    })  # fmt: skip
