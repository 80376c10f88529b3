"""`tapernet train`."""

import os
from pathlib import Path

import torch

from tapernet.commands.console import show
from tapernet.data import load_data
from tapernet.experiment.common import ModelConfig, input_spec, make_net, open_teacher
from tapernet.files import check_writable
from tapernet.measure.curve import evaluate as measure
from tapernet.saving import save
from tapernet.train.loop import fit
from tapernet.train.recipes import TESLA, Recipe
from tapernet.train.settings import Settings

MLP = ModelConfig("mlp", keep=["fc2"])
CURVE = (".json", ".csv", ".png")
"""Forms in which the curve is written beside the network."""


def train(
    data: str = "digits",
    model: ModelConfig = MLP,
    profile: str | list[float] = "linear",
    recipe: Recipe | None = None,  # TESLA as a default would lend its budgets to the recipe that is named instead
    settings: Settings = Settings(),  # noqa: B008 (immutable)
    validation: float = 0.1,
    output: str = "net.safetensors",
    run_dir: str | None = None,
    teacher: str | None = None,
) -> None:
    """Trains one network for every budget, prints its table, and saves it beside its curve (.json, .csv, .png).

    Args:
        data: "digits", a Hugging Face id, or a folder of parquet files.
        model: network of the zoo, its arguments, and the modules to keep whole.
        profile: name of a profile, or its coefficients.
        recipe: how to train; TESLA if none is named. --recipe.help NAME tells a recipe's options.
        settings: optimizer, batch size and the like.
        validation: share of the training images held out for early stopping.
        output: file of the trained network.
        run_dir: folder for checkpoint and logs; a run that was killed goes on from there.
        teacher: a saved network, or the name of a trained one, for recipes with a share `taught`; it was trained on
            images of the same classes, standardised alike.
    """
    path = Path(output)
    check_writable(path, beside=CURVE, inputs=() if teacher is None else (teacher,))
    recipe = recipe or TESLA()
    splits = load_data(data)
    learn, held_out = splits.train.split(validation, seed=settings.seed)
    torch.manual_seed(settings.seed)
    net = make_net(model, profile, splits.train)
    spec = input_spec(splits.train, None if Path(data).is_dir() else data)
    taught_by = None if teacher is None else open_teacher(teacher, spec)
    answers = None if run_dir is None else Path(run_dir) / "answers"
    history = fit(net, learn, held_out, recipe, settings, run_dir=run_dir, teacher=taught_by, answers=answers)
    if int(os.environ.get("RANK", "0")):
        return  # of several processes, torchrun's first one writes and prints
    save(net, path, spec)
    curve = measure(net, splits.test, name=f"{type(recipe).__name__} on {splits.name}")
    show(curve.table())
    for suffix in CURVE:
        curve.save(path.with_suffix(suffix))
    show(f"trained in {history.minutes:.1f} min; wrote {path} and its curve: .json, .csv, .png")
