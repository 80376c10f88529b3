"""`tapernet bench`."""

from pathlib import Path

import torch
from torch import nn

from tapernet import zoo
from tapernet.commands.console import show
from tapernet.commands.source import open_images, open_net
from tapernet.convert.taper import taper
from tapernet.engine.race import race
from tapernet.errors import ConfigError
from tapernet.experiment.common import hardware
from tapernet.files import check_writable, write_json
from tapernet.measure.plot import save_figure
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import terminating_layers
from tapernet.saving import InputSpec, input_shape

SHAPES = {"mlp": (1, 28, 28)}
"""Of an image, where a network of the zoo is not for CIFAR's."""


def bench(
    net: str = "c10net",
    budgets: list[float] | None = None,
    batch: int = 1,
    threads: int = 1,
    runtimes: list[str] | None = None,
    rounds: int = 15,
    kernels: str = "auto",
    data: str | None = None,
    output: str | None = None,
) -> None:
    """Times the native engine and other runtimes in turns, on the same network and images.

    A network that stops early is timed on its images, and every network is with `data`; accuracy is then measured, too,
    on all test images. Else the images are random.

    Args:
        net: a saved network, the name of a trained network of the zoo, or of any network of the zoo, which then has
            random weights.
        budgets: where to measure, beside 1.0; by default 0.5 and 0.2 for a network with a dial.
        batch: images in a call.
        threads: that each runtime may use.
        runtimes: torch, "torch, channels last", torch.compile, ONNX Runtime, "ONNX Runtime, int8", OpenVINO,
            "OpenVINO, bfloat16"; by default all that are installed.
        rounds: turns of each runtime.
        kernels: the engine's instruction set; by default the one that `tapernet.compile` takes.
        data: where the network's images are; for one that stops early, by default where it was trained.
        output: also write the result to this .json file, and its plot beside it (.png).
    """
    if batch < 1 or rounds < 1:
        raise ConfigError("batch and rounds are whole numbers from 1")
    if output is not None:
        if Path(output).suffix != ".json":
            raise ConfigError(f"the result is a .json file, which {output} is not")
        check_writable(output, beside=(".png",), inputs=(net,))
    network, spec = _network(net)
    test, calibration = None, None
    if data is not None or any(layer.checks for layer in terminating_layers(network).values()):
        splits = open_images(net, spec, data)
        test, images, calibration = splits.test, splits.test.as_float()[:batch], splits.train.as_float()[:batch]
    else:
        images = torch.randn(batch, *input_shape(network), generator=torch.Generator().manual_seed(0))
    usual = [0.5, 0.2] if isinstance(network, TaperedNet) else []
    result = race(
        network, images, usual if budgets is None else budgets, runtimes, data=test, calibration=calibration,
        threads=threads, rounds=rounds, kernels=kernels, name=Path(net).stem, machine=hardware(), say=show,
    )  # fmt: skip
    show(result.table())
    if output is not None:
        write_json(output, result.as_dict())
        picture = Path(output).with_suffix(".png")
        save_figure(result.plot(), picture)
        show(f"wrote {output} and {picture}")


def _network(net: str) -> tuple[nn.Module, InputSpec | None]:
    if net not in zoo.NETWORKS:
        return open_net(net)
    shape = SHAPES.get(net, (3, 32, 32))
    return taper(zoo.create(net, input_shape=shape), torch.zeros(1, *shape), profile="all-one").eval(), None
