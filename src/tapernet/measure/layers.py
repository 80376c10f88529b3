"""What each layer of a terminating network did, as tables."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from tapernet.measure.termination import TerminationReport
from tapernet.nn.order import EXACT
from tapernet.nn.terminating import TerminatingConv2d, terminating_layers


def layer_table(net: nn.Module, report: TerminationReport) -> Any:
    """A rich table: where each layer looks, thousands of MACs of one image, and its decisions as shares of its outputs.

    Args:
        net: a network from `tapernet.terminate`, at the budget at which it was counted.
        report: of `count_termination` for it.
    """
    from rich.table import Table

    title = f"{report.done:,.0f} of {report.total:,} MACs an image: {report.saved:.1%} saved"
    layers = terminating_layers(net)
    caption = "TP, TN, FP, FN: positive means not stopped; true, that the full sum agrees"
    if any(layer.rounds for layer in layers.values()):
        caption += ". Products of bytes are not counted"
    table = Table(title=title, caption=caption)
    for heading in ("layer", "check", "kMACs", "of", "saved", "TP", "TN", "FP", "FN"):
        table.add_column(heading, justify="left" if heading in ("layer", "check") else "right")
    for layer in report.layers:
        shares = [f"{s.count / layer.outputs:.1%}" for s in layer.situations.values()]
        table.add_row(layer.path, positions(layers[layer.path], layer.terms), _thousands(layer.done / report.images),
                      _thousands(layer.total / report.images), f"{layer.saved:.1%}", *shares)  # fmt: skip
    for path, macs in report.others.items():
        table.add_row(path, "", _thousands(macs), _thousands(macs), "")
    return table


def situation_table(report: TerminationReport) -> Any:
    """A rich table: what became of each layer's outputs, with MACs and errors (ET paper, Table 2).

    Args:
        report: of `count_termination`.
    """
    from rich.table import Table

    table = Table(title="outputs by situation", caption="error: of what ReLU passes, on average over such outputs")
    for heading in ("layer", "situation", "outputs", "MACs an output", "MACs an image", "error"):
        table.add_column(heading, justify="left" if heading in ("layer", "situation") else "right")
    for layer in report.layers:
        for name, found in layer.situations.items():
            each = [f"{found.macs / found.count:,.1f}", f"{found.error / found.count:.4g}"] if found.count else ["", ""]
            table.add_row(layer.path, name, f"{found.count / layer.outputs:.1%}", each[0],
                          f"{found.macs / report.images:,.0f}", each[1])  # fmt: skip
        table.add_section()
    return table


def positions(layer: TerminatingConv2d, terms: int) -> str:
    """Where a layer's checks are, in words: "40 / 801", "16-256 / 801" for a check per filter, "40, 256 / 801",
    "all 801, in bytes".

    Args:
        layer: the layer.
        terms: n at the budget of the moment.
    """
    if layer.options.order == EXACT:
        return "every negative weight"
    if layer.rounds:
        return f"all {terms}, in bytes"
    found = [_range(check.positions(layer.terms, terms, layer.out_channels), terms) for check in layer.checks]
    return f"{', '.join(found)} / {terms}" if found else "none"


def _thousands(macs: float) -> str:
    return f"{macs / 1e3:,.1f}"


def _range(values: Sequence[int], terms: int) -> str:
    """The lowest and the highest position; n itself, which stops nothing, is left out if there are others."""
    low, high = min(values), max([v for v in values if v < terms] or values)
    return str(low) if low == high else f"{low}-{high}"
