"""Experiments: a YAML file in, a result file out, with whatever is missing trained.

`experiments/<paper>/<figure>.yaml` describes the curves of one figure; `results/<paper>/<figure>.json` holds what was
measured. A run that is stopped at any moment goes on where it was.
"""

import json
import platform
import re
import subprocess
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tapernet import zoo
from tapernet.budget import TEN_BUDGETS, to_percent
from tapernet.config import read_yaml
from tapernet.convert.taper import taper
from tapernet.data import ImageData, Splits, load_data
from tapernet.errors import ConfigError
from tapernet.files import read_json, write_json
from tapernet.measure.curve import evaluate
from tapernet.nn.net import TaperedNet
from tapernet.registry import unknown
from tapernet.saving import InputSpec, save
from tapernet.train.loop import History, fit
from tapernet.train.recipes import IDP, Recipe
from tapernet.train.settings import Settings


@dataclass(frozen=True)
class ModelConfig:
    """A network of the zoo.

    Args:
        name: of the network.
        arguments: of its function, besides the data set's image shape and number of classes.
        keep: modules whose outputs are never cut.
    """

    name: str = "mlp"
    arguments: dict[str, Any] = field(default_factory=dict)
    keep: list[str] = field(default_factory=list)


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
        title: of the figure.
        data: where the data set is, unless the command line says.
        curves: what is trained.
        model: the network of every curve.
        validation: images held out of train for early stopping, drawn anew for each seed.
        seeds: one training of each curve for each.
        budgets: where the curves are measured.
    """

    title: str
    data: str
    curves: list[CurveConfig]
    model: ModelConfig = field(default_factory=ModelConfig)
    validation: int = 5000
    seeds: list[int] = field(default_factory=lambda: [0])
    budgets: list[float] = field(default_factory=lambda: list(TEN_BUDGETS))


def read_experiment(path: Path) -> Experiment:
    """Reads an experiment's YAML file.

    Raises:
        FileError: the file is missing.
        ConfigError: an unknown key or a bad value; the message names it.
    """
    experiment = read_yaml(Experiment, path)
    names = [c.name for c in experiment.curves]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two curves have the same name")
    return experiment


def reproduce(
    experiment: Experiment,
    result: Path,
    runs: Path,
    *,
    data: str | None = None,
    only: Collection[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Trains and measures what the result file lacks, and writes it after each training.

    Args:
        experiment: what to do.
        result: the JSON file; curves and seeds that it holds are not run again.
        runs: folder for checkpoints and trained networks.
        data: data set to use in place of the experiment's.
        only: names of the curves to train; all of them if empty.
        say: told of each step.

    Raises:
        ConfigError: `only` names a curve that is not there; the result file holds a curve made with other settings.
    """
    names = [c.name for c in experiment.curves]
    for name in only:
        if name not in names:
            raise ConfigError(unknown("curve", name, names))
    splits = load_data(data or experiment.data)
    found = read_json(result) if result.exists() else {}
    curves = {c["name"]: c for c in found.get("curves", [])}
    for config in experiment.curves:
        if only and config.name not in only:
            continue
        curve = curves.setdefault(config.name, _empty(experiment, config))
        if not _same(curve["config"], config, _plain(experiment, config)):
            raise ConfigError(f"{result} holds {config.name!r} made with other settings; remove that curve from it")
        for seed in experiment.seeds:
            if seed in curve["seeds"]:
                continue
            say(f"{config.name}, seed {seed}")
            measured = _Measured.of(experiment, config, splits, seed, runs / _slug(config.name) / f"seed{seed}")
            measured.append_to(curve, seed)
            known = [curves[name] for name in names if name in curves]
            write_json(result, {"title": experiment.title, "hardware": hardware(), "curves": known})
            say(f"  mean accuracy {sum(measured.accuracy) / len(measured.accuracy):.4f}, {measured.minutes:.1f} min")


@dataclass
class _Measured:
    """One training and what it came to on the test set."""

    accuracy: list[float]
    macs: list[int]
    minutes: float
    epochs: list[int]
    profile: list[float] | None = None

    @staticmethod
    def of(experiment: Experiment, config: CurveConfig, splits: Splits, seed: int, folder: Path) -> "_Measured":
        if not config.separate:
            net, history = _train(experiment, config, config.recipe, splits, seed, folder)
            curve = evaluate(net, splits.test, experiment.budgets, latency=False)
            learned = [round(g, 5) for g in net.profiles()[0].tolist()] if net.profiles() else None
            accuracy, macs = [p.accuracy for p in curve.points], [p.macs for p in curve.points]
            return _Measured(accuracy, macs, history.minutes, history.epochs, learned)
        parts = [_separate(experiment, config, splits, seed, folder, b) for b in experiment.budgets]
        return _Measured(
            [p.accuracy[0] for p in parts], [p.macs[0] for p in parts], sum(p.minutes for p in parts),
            [sum(p.epochs) for p in parts],
        )  # fmt: skip

    def append_to(self, curve: dict[str, Any], seed: int) -> None:
        curve["macs"] = self.macs
        for key, value in (("seeds", seed), ("accuracy", self.accuracy), ("minutes", round(self.minutes, 2)),
                           ("epochs", self.epochs), ("commit", _commit())):  # fmt: skip
            curve[key].append(value)
        if self.profile is not None:
            curve["learned_profile"] = [*curve.get("learned_profile", []), self.profile]


def _separate(
    experiment: Experiment, config: CurveConfig, splits: Splits, seed: int, folder: Path, budget: float
) -> _Measured:
    """The network of one width alone."""
    if not isinstance(config.recipe, IDP):
        raise ConfigError(f"{config.name}: separate networks are trained by the IDP recipe")
    recipe = IDP(budget, config.recipe.max_epochs, config.recipe.patience)
    net, history = _train(experiment, config, recipe, splits, seed, folder / f"{to_percent(budget)}")
    point = evaluate(net, splits.test, [budget], latency=False).points[0]
    return _Measured([point.accuracy], [point.macs], history.minutes, history.epochs)


def _train(
    experiment: Experiment, config: CurveConfig, recipe: Recipe, splits: Splits, seed: int, folder: Path
) -> tuple[TaperedNet, History]:
    train, val = splits.train.split(experiment.validation, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make_net(experiment.model, config.profile, train)
    history = fit(net, train, val, recipe, replace(config.settings, seed=seed), run_dir=folder)
    save(net, folder / "net.safetensors", input_spec(train, experiment.data))
    return net, history


def make_net(model: ModelConfig, profile: Any, data: ImageData) -> TaperedNet:
    """A new network with a dial that fits a data set."""
    plain = zoo.create(model.name, **{"input_shape": data.shape, "classes": data.classes, **model.arguments})
    return taper(plain, torch.zeros(1, *data.shape), profile=profile, keep=model.keep)


def input_spec(data: ImageData, source: str | None) -> InputSpec:
    """How a data set's images are prepared, and where it is found again."""
    return InputSpec(data.mean, data.std, data.class_names, source)


def _empty(experiment: Experiment, config: CurveConfig) -> dict[str, Any]:
    return {
        "name": config.name, "dataset": experiment.data, "model": experiment.model.name,
        "recipe": type(config.recipe).__name__, "budgets": experiment.budgets, "macs": [], "seeds": [],
        "accuracy": [], "paper": config.paper, "paper_mean": config.paper_mean, "minutes": [], "epochs": [],
        "commit": [], "config": _plain(experiment, config),
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
    plain: dict[str, Any] = json.loads(json.dumps(value))  # tuples become lists, keys strings
    return plain


def _same(stored: dict[str, Any], config: CurveConfig, current: dict[str, Any]) -> bool:
    """Whether two configs are one; an option that is newer than the stored one had its default then."""
    defaults = {"recipe": vars(type(config.recipe)()), "settings": vars(Settings())}
    fill = json.loads(json.dumps(defaults))
    return current == {k: {**fill.get(k, {}), **v} if k in fill else v for k, v in stored.items()} | {
        "settings": {k: v for k, v in {**fill["settings"], **stored["settings"]}.items() if k != "seed"}
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def hardware() -> str:
    """The processor, the cores that this process may use, and torch's version."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (line := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        model = line[1]
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _commit() -> str | None:
    """The commit of the code that ran, marked if files differ from it; None outside a checkout."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, check=True, capture_output=True,
            text=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
