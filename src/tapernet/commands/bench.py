"""`tapernet bench`."""

from pathlib import Path

import torch

from tapernet import zoo
from tapernet.commands.console import show
from tapernet.commands.source import open_dial
from tapernet.convert.taper import taper
from tapernet.engine.race import race
from tapernet.errors import ConfigError
from tapernet.experiment.common import hardware
from tapernet.files import check_writable, write_json
from tapernet.measure.plot import save_figure
from tapernet.nn.net import TaperedNet

SHAPES = {"mlp": (1, 28, 28)}
"""Of an image, where a network of the zoo is not for CIFAR's."""


def bench(
    net: str = "c10net",
    budgets: list[float] | None = None,
    batch: int = 1,
    threads: int = 1,
    runtimes: list[str] | None = None,
    rounds: int = 15,
    output: str | None = None,
) -> None:
    """Times the native engine and other runtimes in turns, on the same network and random images.

    Args:
        net: a file that `train` wrote, the name of a trained network of the zoo, or of any network of the zoo, which
            then has random weights.
        budgets: where to measure, beside 1.0; by default 0.5 and 0.2.
        batch: images in a call.
        threads: that each runtime may use.
        runtimes: torch, "torch, channels last", torch.compile, ONNX Runtime, "ONNX Runtime, int8", OpenVINO; by default
            all that are installed.
        rounds: turns of each runtime.
        output: also write the result to this .json file, and its plot beside it (.png).
    """
    if batch < 1 or rounds < 1:
        raise ConfigError("batch and rounds are whole numbers from 1")
    if output is not None:
        check_writable(output)
    network = _network(net)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *network.input_shape, generator=generator)
    result = race(
        network, images, [0.5, 0.2] if budgets is None else budgets, runtimes, threads=threads, rounds=rounds,
        name=Path(net).stem, machine=hardware(), say=show,
    )  # fmt: skip
    show(result.table())
    if output is not None:
        write_json(output, result.as_dict())
        picture = Path(output).with_suffix(".png")
        save_figure(result.plot(), picture)
        show(f"wrote {output} and {picture}")


def _network(net: str) -> TaperedNet:
    if net not in zoo.NETWORKS:
        return open_dial(net)[0].eval()
    shape = SHAPES.get(net, (3, 32, 32))
    return taper(zoo.create(net, input_shape=shape).eval(), torch.zeros(1, *shape), profile="all-one").eval()
