"""The `tapernet` command: one function here is one subcommand, its parameters are the options."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tapernet.config import explain
from tapernet.errors import ConfigError, TapernetError
from tapernet.experiment import ModelConfig
from tapernet.train.recipes import TESLA, Recipe
from tapernet.train.settings import Settings

MLP = ModelConfig("mlp", keep=["fc2"])


def train(
    data: str = "digits",
    model: ModelConfig = MLP,
    profile: str | list[float] = "linear",
    recipe: Recipe = TESLA(),  # noqa: B008 (immutable)
    settings: Settings = Settings(),  # noqa: B008 (immutable)
    validation: float = 0.1,
    output: str = "net.safetensors",
    run_dir: str | None = None,
) -> None:
    """Trains one network for every budget, prints its table, and saves it beside its curve (.json, .csv, .png).

    Args:
        data: "digits", a Hugging Face id, or a folder of parquet files.
        model: network of the zoo, its arguments, and the modules to keep whole.
        profile: name of a profile, or its coefficients.
        recipe: how to train; --recipe.help NAME tells a recipe's options.
        settings: optimizer, batch size and the like.
        validation: share of the training images held out for early stopping.
        output: file of the trained network.
        run_dir: folder for checkpoint and logs; a run that was killed goes on from there.
    """
    import torch

    from tapernet.data import load_data
    from tapernet.experiment import input_spec, make_net
    from tapernet.files import check_writable
    from tapernet.measure.curve import evaluate as measure
    from tapernet.saving import save
    from tapernet.train.loop import fit

    path = Path(output)
    check_writable(path)
    splits = load_data(data)
    learn, held_out = splits.train.split(validation, seed=settings.seed)
    torch.manual_seed(settings.seed)
    net = make_net(model, profile, splits.train)
    history = fit(net, learn, held_out, recipe, settings, run_dir=run_dir)
    if int(os.environ.get("RANK", "0")):
        return  # of several processes, torchrun's first one writes and prints
    save(net, path, input_spec(splits.train, None if Path(data).is_dir() else data))
    curve = measure(net, splits.test, name=f"{type(recipe).__name__} on {splits.name}")
    _show(curve.table())
    for suffix in (".json", ".csv", ".png"):
        curve.save(path.with_suffix(suffix))
    _show(f"trained in {history.minutes:.1f} min; wrote {path} and its curve: .json, .csv, .png")


def evaluate(
    net: str = "mlp-digits", data: str | None = None, budgets: list[float] | None = None, output: str | None = None
) -> None:
    """Measures a saved network on the test images at every budget.

    Args:
        net: a file that `train` wrote, or the name of a trained network of the zoo.
        data: where its images are; by default where it was trained.
        budgets: where to measure; by default 10%, 20%, ..., 100%.
        output: also write the curve to this .json, .csv or picture.
    """
    from tapernet.data import load_data
    from tapernet.measure.curve import evaluate as measure
    from tapernet.saving import load_with_spec
    from tapernet.zoo import trained

    network, spec = load_with_spec(trained.find(net))
    source = data or (spec.data if spec else None)
    if source is None:
        raise ConfigError(f"{net} does not tell where its images are: give --data")
    splits = load_data(source)
    test = splits.test
    if spec is not None:
        test = replace(test, mean=spec.mean, std=spec.std)
    curve = measure(network, test, budgets, name=f"{Path(net).stem} on {splits.name}")
    _show(curve.table())
    if output:
        curve.save(output)


def reproduce(
    experiment: str,
    data: str | None = None,
    only: list[str] | None = None,
    experiments: str = "experiments",
    results: str = "results",
    runs: str = "runs",
) -> None:
    """Trains and measures what a result file of the papers' figures still lacks.

    Args:
        experiment: <paper>/<figure>, as in tesla/mnist_tesla.
        data: where the data set is, in place of the experiment's own source.
        only: names of the curves to train; all by default.
        experiments: folder of the YAML files.
        results: folder of the result files.
        runs: folder of checkpoints and trained networks.
    """
    from tapernet.experiment import read_experiment
    from tapernet.experiment import reproduce as run

    config = read_experiment(Path(experiments) / f"{experiment}.yaml")
    run(config, Path(results) / f"{experiment}.json", Path(runs) / experiment, data=data, only=only or (), say=_show)


def report(figure: str, experiments: str = "experiments", results: str = "results") -> None:
    """Draws a figure from result files, and prints its curves beside the paper's.

    Args:
        figure: <paper>/<figure>, as in tesla/figure3.
        experiments: folder of the YAML files.
        results: folder of the result files; the picture is written there.
    """
    from tapernet.report import draw_figure, read_figure, summary

    layout = read_figure(Path(experiments) / f"{figure}.yaml", Path(results))
    picture = Path(results) / f"{figure}.png"
    draw_figure(layout, picture)
    _show(summary(layout))
    _show(f"wrote {picture}")


def zoo() -> None:
    """Lists the networks with their MACs, and the trained ones."""
    from tapernet.zoo import listing

    for table in listing.tables():
        _show(table)


COMMANDS: dict[str, Any] = {
    "train": train, "evaluate": evaluate, "reproduce": reproduce, "report": report, "zoo": zoo,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when all went well, 2 for an error that the message explains, 130 when interrupted."""
    from jsonargparse import auto_cli

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        auto_cli(COMMANDS, args=given, prog="tapernet", exit_on_error=False)
    except ArgumentError as error:
        return _fail(explain(str(error), _options(given)))
    except TapernetError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("tapernet: interrupted; with a run_dir, the same command goes on", file=sys.stderr)
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"tapernet: error: {message}", file=sys.stderr)
    return 2


def _options(given: Sequence[str]) -> list[str]:
    """The keys that the subcommand takes."""
    from jsonargparse import auto_parser

    if not given or given[0] not in COMMANDS:
        return []
    return list(auto_parser(COMMANDS[given[0]]).get_defaults().keys())


def _show(what: Any) -> None:
    from rich.console import Console

    Console().print(what)


if __name__ == "__main__":
    sys.exit(main())
