"""`tapernet evaluate`."""

from pathlib import Path

from tapernet.commands.console import show
from tapernet.commands.source import open_images, open_net
from tapernet.files import check_writable
from tapernet.measure.curve import POINTS, Curve
from tapernet.measure.curve import evaluate as measure
from tapernet.measure.joint import JointTable, evaluate_joint
from tapernet.measure.layers import layer_table, situation_table
from tapernet.measure.plot import check_ending
from tapernet.measure.termination import count_termination
from tapernet.nn.terminating import terminating_layers


def evaluate(
    net: str = "mlp-digits",
    data: str | None = None,
    budgets: list[float | str] | None = None,
    output: str | None = None,
) -> None:
    """Measures a saved network on the test images at every budget; one that stops early, with its checks and without.

    Args:
        net: a file that `train` wrote, or the name of a trained network of the zoo.
        data: where its images are; by default where it was trained.
        budgets: where to measure, numbers or names of budgets that the network has; by default 10%, 20%, ..., 100%.
        output: also write the curve to this .json, .csv or picture.
    """
    if output is not None:
        check_writable(output, inputs=(net,))
        check_ending(output, POINTS)
    network, spec = open_net(net)
    splits = open_images(net, spec, data)
    name = f"{Path(net).stem} on {splits.name}"
    if terminating_layers(network):
        report = count_termination(network, splits.test)
        show(layer_table(network, report))
        show(situation_table(report))
        found: Curve | JointTable = evaluate_joint(network, splits.test, budgets, name=name, counted={1.0: report})
    else:
        found = measure(network, splits.test, budgets, name=name)
    show(found.table())
    if output is not None:
        found.save(output)
