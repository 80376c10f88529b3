"""`tapernet terminate`."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from tapernet.commands.console import show
from tapernet.commands.source import open_images, open_net
from tapernet.convert.terminate import terminate as make_stopping
from tapernet.data import ImageData, Splits
from tapernet.errors import ConfigError, FileError
from tapernet.experiment.common import as_json
from tapernet.files import check_writable, read_json, write_json
from tapernet.measure.joint import JointTable, evaluate_joint, joint_table
from tapernet.measure.layers import layer_table
from tapernet.measure.termination import TerminationReport, count_termination
from tapernet.nn.net import TaperedNet
from tapernet.nn.order import EXACT
from tapernet.nn.terminating import terminating_layers
from tapernet.placement import Placement, place_checks
from tapernet.placement.layer_time import time_weights
from tapernet.registry import unknown
from tapernet.saving import InputSpec, load, save
from tapernet.train.loop import fit
from tapernet.train.recipes import FineTune
from tapernet.train.settings import Settings

FINE = Settings(lr=1e-4)
MACS, TIME = "macs", "time"
PLACED = "placed.json"
"""In the run's folder, beside the network with its checks."""


def terminate(
    net: str = "c10net-digits",
    data: str | None = None,
    tolerance: float = 0.05,
    placement: str = "greedy-paper",
    options: dict[str, Any] | None = None,
    order: str = "magnitude",
    bias_first: bool = False,
    gradient: str = "exact",
    images: int | None = None,
    epochs: int = 20,
    mac_penalty: float = 0.0,
    penalty_of: str = MACS,
    threshold_scale: float = 0.0,
    taught: float = 0.0,
    budgets: list[float] | None = None,
    settings: Settings = FINE,
    control: bool = False,
    validation: float = 0.1,
    output: str = "terminated.safetensors",
    run_dir: str | None = None,
) -> None:
    """Lets the convolutions of a trained network stop early: places checks, fine-tunes with them, and counts MACs.

    Args:
        net: a saved network with a dial or without one, or the name of a trained network of the zoo.
        data: where its images are; by default where it was trained.
        tolerance: e_t, the drop of accuracy on training images that placing checks must stay below, in [0, 1].
        placement: "greedy-paper" (Algorithm 1), "greedy", "timed" (as greedy, by milliseconds), "per-filter" or
            "rounded" (sums in eight bits).
        options: the placement's own, such as {shares: [0.05, 0.32]}.
        order: of a filter's products, "magnitude", "expected" or "exact"; the last one needs no checks.
        bias_first: count the bias in partial sums.
        gradient: of fine-tuning, "exact", "straight-through" or "gated".
        images: training images on which checks are placed; all by default.
        epochs: of fine-tuning; 0 for none.
        mac_penalty: factor of the share of MACs done in the loss of fine-tuning.
        penalty_of: "macs", or "time": layers weigh in the penalty what stopping them saves on this machine.
        threshold_scale: of what the thresholds of the checks learn in fine-tuning, with the gradient "gated"; 0 leaves
            them where they were placed.
        taught: share of the labels in fine-tuning, the control's too, that the network without checks gives.
        budgets: at which a network with a dial is fine-tuned, the smaller ones taught by the largest.
        settings: optimizer, batch size and the like of fine-tuning.
        control: also fine-tune without checks, to tell what the fine-tuning itself does.
        validation: share of the training images held out for the validation accuracy.
        output: file of the network; what was measured goes beside it as .json.
        run_dir: folder for the placed checks, checkpoints and logs; a run that was killed goes on from there.
    """
    path = Path(output)
    check_writable(path, beside=(".json",), inputs=(net,))
    if images is not None and images < 1:
        raise ConfigError(f"images is at least 1, not {images}")
    # What cannot act is told now, not after the placement.
    if threshold_scale and gradient != "gated":
        raise ConfigError(f"a threshold_scale needs the gradient 'gated', not {gradient!r}")
    if threshold_scale and placement == "rounded":
        raise ConfigError("a threshold_scale needs another placement: the threshold of a rounded sum does not learn")
    _check_tuned(epochs, threshold_scale=threshold_scale, mac_penalty=mac_penalty, taught=taught, control=control)
    network, spec = open_net(net)
    recipe = _recipe(network, epochs, mac_penalty, penalty_of, threshold_scale, taught, budgets)
    splits = open_images(net, spec, data)
    train, val = splits.train.split(validation, seed=settings.seed)
    stopping = make_stopping(network, train.as_float()[:2], order=order, bias_first=bias_first, gradient=gradient)
    untouched = copy.deepcopy(stopping)
    some = train if images is None else train.take(range(min(images, len(train))))
    settings_of_start = as_json({
        "net": net, "data": data, "tolerance": tolerance, "placement": placement, "options": options, "order": order,
        "bias_first": bias_first, "gradient": gradient, "images": images, "validation": validation,
        "seed": settings.seed, "penalty_of": penalty_of,
    })  # fmt: skip
    stopping, start = _started(stopping, spec, some, settings_of_start, run_dir)
    placed, report = _measured("placed", stopping, splits)
    tables = [placed]
    if recipe is not None:
        if control:
            plain = replace(recipe, mac_penalty=0.0, threshold_scale=0.0)
            copied = copy.deepcopy(untouched)
            tables.append(_tuned("control", copied, train, val, splits, plain, settings, run_dir, untouched)[0])
        penalised = replace(recipe, penalty_weights=start["penalty_weights"])
        tuned, report = _tuned("tuned", stopping, train, val, splits, penalised, settings, run_dir, untouched)
        tables.append(tuned)
    save(stopping, path, spec)
    show(layer_table(stopping, report))
    show(joint_table(tables, f"{Path(net).stem} on {splits.name}"))
    counted = {key: value for key, value in report.as_dict().items() if key != "done_per_image"}
    write_json(path.with_suffix(".json"), {
        "placement": start["placement"], "penalty_weights": start["penalty_weights"], "skipped": stopping.skipped,
        "counted": counted, "measured": [asdict(table) for table in tables],
    })  # fmt: skip
    show(f"wrote {path} and {path.with_suffix('.json').name}")


def _check_tuned(epochs: int, **options: float) -> None:
    """Refuses options of the fine-tuning where there is none."""
    for name, value in options.items():
        if value and epochs == 0:
            raise ConfigError(f"{name} is of the fine-tuning, which needs epochs above 0")


def _recipe(
    network: nn.Module, epochs: int, mac_penalty: float, penalty_of: str, threshold_scale: float, taught: float,
    budgets: list[float] | None,
) -> FineTune | None:  # fmt: skip
    """The fine-tuning; None for no epochs."""
    dial = isinstance(network, TaperedNet)
    if epochs < 0:
        raise ConfigError(f"epochs is at least 0, not {epochs}")
    if budgets and not dial:
        raise ConfigError("budgets are for networks with a dial; this one runs at 1.0 alone")
    if penalty_of not in (MACS, TIME):
        raise ConfigError(unknown("penalty", penalty_of, (MACS, TIME)))
    if penalty_of == TIME and not mac_penalty:
        raise ConfigError("a penalty of time needs a mac_penalty above 0, and epochs of fine-tuning")
    chosen = tuple(budgets or ((1.0, 0.75, 0.5, 0.25) if dial else (1.0,)))
    if epochs == 0:
        return None
    return FineTune(
        chosen, distill=dial, epochs=epochs, mac_penalty=mac_penalty, taught=taught, threshold_scale=threshold_scale
    )


def _started(
    net: nn.Module, spec: InputSpec | None, images: ImageData, settings: dict[str, Any], run_dir: str | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The network with checks; and the placement and the penalty's weights, as JSON can hold them.

    They may depend on times, which are others at every measurement: a run that goes on has those of its start.

    Args:
        net: without checks, changed in place.
        spec: to be saved with it.
        images: on which checks are placed.
        settings: all that decides the outcome.
        run_dir: folder of the run, if any.

    Raises:
        ConfigError: the folder holds the start of a run with other settings.
        FileError: the folder holds something else under that name.
    """
    path = None if run_dir is None else Path(run_dir) / PLACED
    if path is not None and path.exists():
        found: Any = read_json(path)
        if not isinstance(found, dict) or not {"settings", "placement", "penalty_weights"} <= found.keys():
            raise FileError(f"{path} does not hold the start of a run; delete it to begin again")
        if found["settings"] != settings:
            raise ConfigError(f"{path} belongs to a run with other settings; choose another folder or delete it.\n"
                              f"there: {found['settings']}\nhere:  {settings}")  # fmt: skip
        return load(path.with_suffix(".safetensors")), found
    placed = _place(net, images, settings["tolerance"], settings["placement"], settings["options"] or {})
    weights = time_weights(net, images) if settings["penalty_of"] == TIME else None
    start = {"settings": settings, "placement": placed and placed.as_dict(), "penalty_weights": weights}
    if path is not None:
        save(net, path.with_suffix(".safetensors"), spec)
        write_json(path, start)
    return net, start


def _place(
    net: nn.Module, train: ImageData, tolerance: float, method: str, options: dict[str, Any]
) -> Placement | None:
    """Places checks; nothing in the exact order, which stops by itself."""
    if any(layer.options.order == EXACT for layer in terminating_layers(net).values()):
        return None
    return place_checks(net, train, tolerance=tolerance, method=method, **options)


def _tuned(
    name: str, net: nn.Module, train: ImageData, val: ImageData, splits: Splits, recipe: FineTune, settings: Settings,
    run_dir: str | None, untouched: nn.Module,
) -> tuple[JointTable, TerminationReport]:  # fmt: skip
    """Fine-tunes a network, with the one without checks as its teacher if the recipe has one, and measures it."""
    folder = None if run_dir is None else Path(run_dir) / name
    fit(net, train, val, recipe, settings, run_dir=folder, teacher=untouched if recipe.taught else None)
    return _measured(name, net, splits)


def _measured(name: str, net: nn.Module, splits: Splits) -> tuple[JointTable, TerminationReport]:
    """At every budget; and the whole network's layers, counted once for both tables."""
    report = count_termination(net, splits.test)
    return evaluate_joint(net, splits.test, name=name, counted={1.0: report}), report
