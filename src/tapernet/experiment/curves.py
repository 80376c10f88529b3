"""Figures whose curves run over the budget: the TESLA paper's, its controls and peers."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from tapernet.budget import TEN_BUDGETS, to_percent
from tapernet.convert.taper import taper
from tapernet.data import Splits, load_data
from tapernet.errors import ConfigError
from tapernet.experiment.base import NETWORK, Phase, Split, base_folder, new_network, plain_phase, trained_base
from tapernet.experiment.common import Job, ModelConfig, Results, as_json, chosen, commits, hardware, slug
from tapernet.measure.curve import Curve, evaluate
from tapernet.nn.net import TaperedNet
from tapernet.saving import save
from tapernet.train.loop import History, fit
from tapernet.train.recipes import IDP, Recipe
from tapernet.train.settings import Settings


@dataclass(frozen=True)
class CurveConfig:
    """One curve of a figure.

    Args:
        name: of the curve, unique in its figure.
        recipe: how the network is trained.
        profile: name, coefficients, or the upper budget of each range with its profile.
        settings: optimizer, batch size and the like; the seed is the experiment's.
        separate: train a network for each budget, by an `IDP` recipe at that budget, in place of one for all.
        paper: the paper's accuracy at each budget in [0, 1], null where it gives none.
        paper_mean: the paper's average accuracy.
    """

    name: str
    recipe: Recipe
    profile: str | list[float] | dict[float, str] = "all-one"
    settings: Settings = field(default_factory=Settings)
    separate: bool = False
    paper: list[float | None] | None = None
    paper_mean: float | None = None


@dataclass(frozen=True)
class Experiment:
    """A figure's curves.

    Args:
        kind: "budgets", which a file need not say.
        title: of the figure.
        data: where the data set is, unless the command line says.
        curves: what is trained.
        model: the network of every curve.
        validation: images held out of train for early stopping, drawn anew for each seed.
        seeds: one training of each curve for each.
        budgets: where the curves are measured.
        base: training of a plain network for each seed, from whose weights every curve starts.
    """

    title: str
    data: str
    curves: list[CurveConfig]
    model: ModelConfig = field(default_factory=ModelConfig)
    validation: int = 5000
    seeds: list[int] = field(default_factory=lambda: [0])
    budgets: list[float] = field(default_factory=lambda: list(TEN_BUDGETS))
    kind: str = "budgets"
    base: Phase | None = None


def reproduce(experiment: Experiment, job: Job) -> None:
    """See `tapernet.experiment.reproduce`; a piece is one curve for one seed."""
    configs = chosen(experiment.curves, job.only)
    splits = load_data(job.data or experiment.data)
    results = Results(job.result, experiment.title, [c.name for c in experiment.curves])
    for config in configs:
        results.begin(_empty(experiment, config), _usual(config))
        for seed in experiment.seeds:
            if seed in results.curve(config.name)["seeds"]:
                continue
            job.say(f"{config.name}, seed {seed}")
            measured = _Measured.of(_Run(experiment, config, splits, seed, job.runs))
            with results.adding(config.name) as curve:
                measured.append_to(curve, seed)
            job.say(f"  mean accuracy {fmean(measured.accuracy):.4f}, {measured.minutes:.1f} min")


class _Run:
    """One curve for one seed."""

    def __init__(self, experiment: Experiment, config: CurveConfig, splits: Splits, seed: int, runs: Path) -> None:
        self.experiment, self.config, self.test, self.runs = experiment, config, splits.test, runs
        self.data = Split.of(splits, experiment.validation, seed, experiment.data)
        self.folder = runs / slug(config.name) / f"seed{seed}"

    def train(self, recipe: Recipe, folder: Path) -> tuple[TaperedNet, History]:
        """A network with a dial, trained by a recipe."""
        experiment, data = self.experiment, self.data
        model = experiment.model
        base = experiment.base
        plain = new_network(model, data) if base is None else trained_base(model, base, data, self.runs)
        net = taper(plain, torch.zeros(1, *data.train.shape), profile=self.config.profile, keep=model.keep)
        settings = replace(self.config.settings, seed=data.seed)
        commits(folder)
        history = fit(net, data.train, data.val, recipe, settings, run_dir=folder)
        save(net, folder / NETWORK, data.spec)
        return net, history

    def commits(self, *folders: Path) -> str | None:
        """Of the code that trained in the folders, and before them the base."""
        base = () if self.experiment.base is None else (base_folder(self.data, self.runs),)
        return commits(*base, *folders)

    def measure(self, net: TaperedNet, budgets: list[float]) -> Curve:
        """The test set, read once."""
        return evaluate(net, self.test, budgets, latency=False)


@dataclass
class _Measured:
    """One training and what it came to on the test set."""

    accuracy: list[float]
    macs: list[int]
    minutes: float
    epochs: list[int]
    commit: str | None
    profile: list[float] | None = None

    @staticmethod
    def of(run: _Run) -> "_Measured":
        if run.config.separate:
            parts = [_separate(run, budget) for budget in run.experiment.budgets]
            return _Measured(
                [p.accuracy[0] for p in parts], [p.macs[0] for p in parts], sum(p.minutes for p in parts),
                [sum(p.epochs) for p in parts],
                run.commits(*(run.folder / f"{to_percent(budget)}" for budget in run.experiment.budgets)),
            )  # fmt: skip
        net, history = run.train(run.config.recipe, run.folder)
        points = run.measure(net, run.experiment.budgets).points
        learned = [round(g, 5) for g in net.profiles()[0].tolist()] if net.profiles() else None
        accuracy, macs = [p.accuracy for p in points], [p.macs for p in points]
        return _Measured(accuracy, macs, history.minutes, history.epochs, run.commits(run.folder), learned)

    def append_to(self, curve: dict[str, Any], seed: int) -> None:
        curve["macs"] = self.macs
        for key, value in (("seeds", seed), ("accuracy", self.accuracy), ("minutes", round(self.minutes, 2)),
                           ("epochs", self.epochs), ("commit", self.commit), ("hardware", hardware())):  # fmt: skip
            curve[key].append(value)
        if self.profile is not None:
            curve["learned_profile"] = [*curve.get("learned_profile", []), self.profile]


def _separate(run: _Run, budget: float) -> _Measured:
    """The network of one width alone."""
    recipe = run.config.recipe
    if not isinstance(recipe, IDP):
        raise ConfigError(f"{run.config.name}: separate networks are trained by the IDP recipe")
    own = IDP(budget, recipe.max_epochs, recipe.patience)
    net, history = run.train(own, run.folder / f"{to_percent(budget)}")
    point = run.measure(net, [budget]).points[0]
    return _Measured([point.accuracy], [point.macs], history.minutes, history.epochs, None)


def _empty(experiment: Experiment, config: CurveConfig) -> dict[str, Any]:
    return {
        "name": config.name, "dataset": experiment.data, "model": experiment.model.name,
        "recipe": type(config.recipe).__name__, "budgets": experiment.budgets, "macs": [], "seeds": [],
        "accuracy": [], "paper": config.paper, "paper_mean": config.paper_mean, "minutes": [], "epochs": [],
        "commit": [], "hardware": [], "config": _plain(experiment, config),
    }  # fmt: skip


def _plain(experiment: Experiment, config: CurveConfig) -> dict[str, Any]:
    """What decides a curve's numbers, as JSON."""
    value = {
        "recipe": {"name": type(config.recipe).__name__, **vars(config.recipe)},
        "profile": config.profile,
        "settings": {k: v for k, v in vars(config.settings).items() if k != "seed"},
        "separate": config.separate,
        "model": asdict(experiment.model),
        "validation": experiment.validation,
    }
    if experiment.base is not None:
        value["base"] = plain_phase(experiment.base)
    plain: dict[str, Any] = as_json(value)
    return plain


def _usual(config: CurveConfig) -> dict[str, Any]:
    """The defaults of the options in a config."""
    return {"recipe": vars(type(config.recipe)()), "settings": vars(Settings()), "base": plain_phase(Phase(0)),
            "model": asdict(ModelConfig())}  # fmt: skip
