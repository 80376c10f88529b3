"""`tapernet search`."""

from pathlib import Path

from tapernet.budget import TEN_BUDGETS
from tapernet.commands.console import show
from tapernet.commands.source import open_dial, open_images
from tapernet.files import check_writable
from tapernet.measure.layer_latency import LatencyTable, measure_layers
from tapernet.nn.net import TaperedNet
from tapernet.saving import save
from tapernet.search import search_budget


def search(
    net: str = "mlp-digits",
    max_macs: float | None = None,
    max_ms: float | None = None,
    name: str = "searched",
    data: str | None = None,
    trials: int = 100,
    shares: list[float] = list(TEN_BUDGETS),  # noqa: B006 (read only)
    validation: float = 0.1,
    held_back: float = 0.5,
    latencies: str | None = None,
    seed: int = 0,
    output: str = "searched.safetensors",
) -> None:
    """Looks for the widths of the layers that are most accurate within a limit, and saves them as a named budget.

    Args:
        net: a file that `train` wrote, or the name of a trained network of the zoo.
        max_macs: most multiply-accumulates of an image.
        max_ms: or most milliseconds of an image on this machine, on one thread.
        name: of the budget, for `extract`, `cam` and `TaperedNet.at`.
        data: where its images are; by default where it was trained.
        trials: most choices to try.
        shares: that a layer may have.
        validation: share of the training images that choices are judged by; with the validation and the seed of
            `train`, the ones that were held out there.
        held_back: share of those that the search does not see, and that confirm what it found.
        latencies: JSON file of the layers' measured times: read if it is there, written if not.
        seed: of the search and of the split.
        output: file of the network with the named budget.
    """
    check_writable(output, inputs=(net,))
    network, spec = open_dial(net)
    splits = open_images(net, spec, data)
    train, val = splits.train.split(validation, seed=seed)
    table = _table(network, latencies, seed) if latencies else None
    result = search_budget(
        network, val, max_macs=max_macs, max_ms=max_ms, name=name, train=train, trials=trials, shares=shares,
        held_back=held_back, table=table, seed=seed, say=show,
    )  # fmt: skip
    save(network, output, spec)
    show(result.table())
    if not result.within_limit:
        show(f"note: the measured time is over {max_ms:g} ms all the same")
    show(f"wrote {output}, with the budget {name!r}: {dict(result.best.budget)}")


def _table(net: TaperedNet, path: str, seed: int) -> LatencyTable:
    """The table in a file, measured and written first if the file is not there."""
    if Path(path).exists():
        return LatencyTable.load(path)
    check_writable(path)
    table = measure_layers(net, seed=seed)
    table.save(path)
    return table
