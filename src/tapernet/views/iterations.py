"""What one check saves, and how often rightly, over its position: Table 1 of the early-termination paper."""

import statistics
from typing import Any

from tapernet.errors import ConfigError
from tapernet.registry import unknown
from tapernet.views.macs import by_point


def of_layer(curve: dict[str, Any], layer: str) -> dict[str, Any]:
    """MAC_TN and MAC_SV of a layer, averaged over the seeds, for each position that the curve's points tell.

    MAC_TN is the share of stopped filters whose full sum is negative too, MAC_SV the share of the layer's MACs that is
    saved. The paper's, if the curve has them, are rows of position, MAC_TN and MAC_SV.

    Raises:
        ConfigError: the layer does not stop early in that curve.
    """
    rows = []
    for group in by_point(curve):
        found = [_numbers(point, layer) for point in group]
        rows.append([group[0]["point"], *map(statistics.fmean, zip(*found, strict=True))])
    return {"name": curve["name"], "rows": rows, "paper": curve["paper"] or []}


def draw(ax: Any, curve: dict[str, Any]) -> None:
    """Two lines, and the paper's points as crosses."""
    for column, name in ((1, "rightly stopped"), (2, "MACs saved")):
        (line,) = ax.plot([r[0] for r in curve["rows"]], [r[column] * 100 for r in curve["rows"]], "o-", ms=3,
                          label=f"{curve['name']}: {name}")  # fmt: skip
        if curve["paper"]:
            ax.plot([r[0] for r in curve["paper"]], [r[column] * 100 for r in curve["paper"]], "x",
                    color=line.get_color(), label=f"{name} (paper)")  # fmt: skip
    ax.set(xlabel="products before the check", ylabel="%")


def table(curves: list[dict[str, Any]]) -> Any:
    """A row for each position of each curve, the paper's numbers in the same row."""
    from rich.table import Table

    table = Table(caption="MAC_TN: stopped filters whose full sum is negative; MAC_SV: MACs of the layer saved")
    for heading in ("curve", "position", "MAC_TN", "paper", "MAC_SV", "paper"):
        table.add_column(heading, justify="left" if heading == "curve" else "right")
    for curve in curves:
        paper = {row[0]: row for row in curve["paper"]}
        for position, right, saved in curve["rows"]:
            known = [f"{x:.2%}" for x in paper[position][1:]] if position in paper else ["", ""]
            table.add_row(curve["name"], f"{position:g}", f"{right:.2%}", known[0], f"{saved:.2%}", known[1])
        table.add_section()
    return table


def _numbers(point: dict[str, Any], layer: str) -> tuple[float, float]:
    layers = {one["path"]: one for one in point.get("layers", ())}
    if layer not in layers:
        raise ConfigError(unknown("layer that stops early", layer, layers))
    found = layers[layer]
    true, false = (found["situations"][f"{kind} negative"]["count"] for kind in ("true", "false"))
    return true / (true + false) if true + false else float("nan"), 1 - found["done"] / found["total"]
