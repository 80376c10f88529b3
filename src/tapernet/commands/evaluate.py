"""`tapernet evaluate`."""

from dataclasses import replace
from pathlib import Path

from tapernet.commands.console import show
from tapernet.data import load_data
from tapernet.errors import ConfigError
from tapernet.measure.curve import evaluate as measure
from tapernet.saving import load_with_spec
from tapernet.zoo import trained


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
    network, spec = load_with_spec(trained.find(net))
    source = data or (spec.data if spec else None)
    if source is None:
        raise ConfigError(f"{net} does not tell where its images are: give --data")
    splits = load_data(source)
    test = splits.test
    if spec is not None:
        test = replace(test, mean=spec.mean, std=spec.std)
    curve = measure(network, test, budgets, name=f"{Path(net).stem} on {splits.name}")
    show(curve.table())
    if output:
        curve.save(output)
