"""The network of one budget as a file for elsewhere: weights, an ONNX model, or a torch.export program."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tapernet.convert.extract import extract
from tapernet.errors import ConfigError
from tapernet.extras import need
from tapernet.files import write_atomically, write_tensors
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import Budget, TaperedNet
from tapernet.nn.terminating import terminating_layers
from tapernet.registry import unknown

KIND = "extracted network"
VERSION = 1
BATCH = "batch"


def export(net: TaperedNet, budget: Budget, path: str | Path, header: Mapping[str, Any] | None = None) -> nn.Module:
    """Writes the extracted network of one budget, atomically, in the form that the path's ending names.

    - .safetensors: its state dict; the JSON header under "tapernet" has the budget, the shape of an input and the
      layers in words, with whatever `header` adds.
    - .onnx: an ONNX model, for ONNX Runtime and others (extra `export`).
    - .pt2: a program of `torch.export`, which `torch.export.load(path).module()` runs without this library.

    The models are in eval mode; they take float32 inputs of shape (n, channels, height, width) for any n > 0 and give
    the scores, (n, classes). The names in the ONNX model are "images" and "scores".

    Args:
        net: the network, which is not changed.
        budget: what is extracted.
        path: the file.
        header: more for the header of a .safetensors file.

    Returns:
        The extracted network.

    Raises:
        ConfigError: another ending, a bad budget, one without batch-norm statistics, a package that is missing, or
            layers that stop early, which only .safetensors holds.
        FileError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ConfigError(unknown("ending of an export", path.suffix, WRITERS))
    small = extract(net, budget)
    if path.suffix != ".safetensors" and terminating_layers(small):
        raise ConfigError(f"a {path.suffix} file has no convolutions that stop early; extract the network from before "
                          f"`terminate`, or write .safetensors")  # fmt: skip
    device = next(small.parameters()).device
    # Two images, since torch takes a batch of one for a size that never changes.
    example = torch.zeros(2, *net.input_shape, device=device)
    about = {"budget": budget, "input_shape": list(net.input_shape), "layers": str(small), **(header or {})}
    with eval_mode(small), quiet_exporters():
        WRITERS[path.suffix](small, example, path, about)
    return small


def _write_weights(small: nn.Module, example: Tensor, path: Path, header: Mapping[str, Any]) -> None:
    write_tensors(path, small.state_dict(), {"kind": KIND, "version": VERSION, **header})


def _write_onnx(small: nn.Module, example: Tensor, path: Path, header: Mapping[str, Any]) -> None:
    for package in ("onnx", "onnxscript"):
        need(package, "export", "an ONNX model")
    program = torch.onnx.export(
        small, (example,), dynamo=True, verbose=False, input_names=["images"], output_names=["scores"],
        dynamic_shapes=_any_batch(),
    )  # fmt: skip
    assert program is not None
    write_atomically(path, lambda part: program.save(part, external_data=False))


def _write_program(small: nn.Module, example: Tensor, path: Path, header: Mapping[str, Any]) -> None:
    program = torch.export.export(small, (example,), dynamic_shapes=_any_batch())
    data = io.BytesIO()  # not the file: on a full disk torch's writer would end the process
    torch.export.save(program, data)
    write_atomically(path, lambda part: _write_bytes(part, data.getbuffer()))


def _write_bytes(path: Path, data: memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)


WRITERS: dict[str, Callable[[nn.Module, Tensor, Path, Mapping[str, Any]], None]] = {
    ".safetensors": _write_weights,
    ".onnx": _write_onnx,
    ".pt2": _write_program,
}


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim(BATCH)},)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Without the exporters' remarks on torchvision and on names that torch itself has yet to change."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(before)
