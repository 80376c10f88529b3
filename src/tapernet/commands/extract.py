"""`tapernet extract`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tapernet.commands.console import show
from tapernet.commands.source import open_dial
from tapernet.convert.export import export
from tapernet.files import check_writable
from tapernet.measure.macs import count_parameters, total_macs
from tapernet.nn.net import budget_name
from tapernet.zoo import trained


def extract(net: str = "mlp-digits", budget: float | str = 0.5, output: str = "small.safetensors") -> None:
    """Writes the network of one budget as a file of its own, and prints its size beside the full one's.

    Args:
        net: a file that `train` wrote, or the name of a trained network of the zoo.
        budget: a share in (0, 1], or the name of a budget per layer that the network has.
        output: .safetensors for the weights, .onnx for ONNX Runtime and others, .pt2 for torch.export.
    """
    from rich.table import Table

    network, spec = open_dial(net)
    with network.at(budget):  # a bad budget is told before anything is written
        pass
    check_writable(output, inputs=(net,))
    small = export(network, budget, output, {} if spec is None else {"spec": asdict(spec)})
    table = Table(title=f"{Path(net).stem} at budget {budget_name(budget)}")
    for heading in ("", "MACs", "parameters", "kilobytes", "file"):
        table.add_column(heading, justify="left" if heading in ("", "file") else "right")
    for name, model, path in (("full", network, trained.find(net)), (budget_name(budget), small, Path(output))):
        table.add_row(name, *_numbers(model, network.input_shape), f"{path.stat().st_size / 1000:,.0f}", path.name)
    show(table)
    show(f"wrote {output}")


def _numbers(model: Any, shape: tuple[int, ...]) -> tuple[str, str]:
    """MACs of an image and parameters, as text."""
    return f"{total_macs(model, torch.zeros(1, *shape)).usual:,}", f"{count_parameters(model):,}"
