"""What the zoo holds, as tables."""

from typing import Any

import torch

from tapernet import zoo
from tapernet.measure.macs import count_parameters, total_macs
from tapernet.zoo import trained

SHAPES: dict[str, list[dict[str, Any]]] = {"mlp": [{"input_shape": (1, 28, 28), "classes": 10}]}
"""What each network is listed with; CIFAR with 10 and 100 classes unless it says otherwise."""
CIFAR: list[dict[str, Any]] = [{"input_shape": (3, 32, 32), "classes": n} for n in (10, 100)]


def tables() -> list[Any]:
    """One rich table of the networks with MACs and parameters, one of the trained ones."""
    from rich.table import Table

    networks = Table(title="networks")
    for heading in ("name", "input", "classes"):
        networks.add_column(heading)
    for heading in ("MACs", "with bias (the papers' count)", "parameters"):
        networks.add_column(heading, justify="right")
    for name in zoo.NETWORKS:
        for arguments in SHAPES.get(name, CIFAR):
            net = zoo.create(name, **arguments)
            shape = arguments["input_shape"]
            macs = total_macs(net, torch.zeros(1, *shape))
            networks.add_row(
                name,
                "x".join(map(str, shape)),
                str(arguments["classes"]),
                f"{macs.usual:,}",
                f"{macs.paper:,}",
                f"{count_parameters(net):,}",
            )
    files = Table(title="trained networks")
    for heading in ("name", "kilobytes"):
        files.add_column(heading)
    for name in trained.names():
        files.add_row(name, f"{trained.find(name).stat().st_size / 1000:.0f}")
    return [networks, files]
