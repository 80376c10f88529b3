"""`tapernet evaluate`."""

from pathlib import Path

from tapernet.commands.console import show
from tapernet.commands.source import open_images, open_net
from tapernet.measure.curve import evaluate as measure


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
    network, spec = open_net(net)
    splits = open_images(net, spec, data)
    curve = measure(network, splits.test, budgets, name=f"{Path(net).stem} on {splits.name}")
    show(curve.table())
    if output:
        curve.save(output)
