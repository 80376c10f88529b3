"""`tapernet cascade`."""

from dataclasses import asdict
from pathlib import Path

from tapernet.cascade import calibrate_cascade
from tapernet.commands.console import show
from tapernet.commands.source import open_dial, open_images
from tapernet.files import check_writable, write_json
from tapernet.saving import save


def cascade(
    net: str = "mlp-digits",
    budgets: list[float | str] = [0.1, 0.2, 0.5, 1.0],  # noqa: B006 (read only)
    max_loss: float = 0.005,
    confidence: str = "probability",
    data: str | None = None,
    validation: float = 0.1,
    seed: int = 0,
    output: str = "cascade.safetensors",
) -> None:
    """Lets a small budget answer the images that it is sure of and larger ones the others, and measures what it saves.

    Args:
        net: a file that `train` wrote, or the name of a trained network of the zoo.
        budgets: that may be stages, growing; those of no use are left out.
        max_loss: of validation accuracy against the largest of them, in [0, 1).
        confidence: "probability", or "margin" between the two most probable classes.
        data: where its images are; by default where it was trained.
        validation: share of the training images that thresholds are chosen on; with the validation and the seed of
            `train`, the ones that were held out there.
        seed: of the split.
        output: file of the network with its cascade; what was measured on the test images goes beside it as .json.
    """
    path = Path(output)
    check_writable(path, beside=(".json",), inputs=(net,))
    network, spec = open_dial(net)
    splits = open_images(net, spec, data)
    val = splits.train.split(validation, seed=seed)[1]
    found = calibrate_cascade(network, val, budgets, max_loss=max_loss, confidence=confidence)
    report = found.evaluate(splits.test)
    found.store()
    save(network, path, spec)
    write_json(path.with_suffix(".json"), asdict(report))
    show(report.table(f"{Path(net).stem} on {splits.name}"))
    show(report.summary())
    show(f"wrote {path} and {path.with_suffix('.json').name}")
