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
from tapernet.errors import ConfigError, FileError
from tapernet.extras import need
from tapernet.files import write_atomically, write_tensors
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import Budget, TaperedNet
from tapernet.nn.terminating import terminating_layers
from tapernet.registry import unknown

KIND = "extracted network"
VERSION = 1
BATCH = "batch"
TOLERANCE = 1e-3
"""Of the largest score, by which an exported model may differ from torch."""


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
        FileError: the file cannot be written, or the exported model computes something else: nothing is then written.
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

    def write(part: Path) -> None:
        program.save(part, external_data=False)
        _check_same(small, _onnx_runner(part), example, path)

    write_atomically(path, write)


def _onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """What an ONNX model computes: by ONNX Runtime if it is installed, else by the slow reference of onnx."""
    try:
        from onnxruntime import InferenceSession

        session = InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    except ImportError:
        reference = need("onnx.reference", "export", "the comparison of an ONNX model")
        session = reference.ReferenceEvaluator(str(path))
    return lambda x: torch.from_numpy(session.run(["scores"], {"images": x.cpu().numpy()})[0])


def _write_program(small: nn.Module, example: Tensor, path: Path, header: Mapping[str, Any]) -> None:
    program = torch.export.export(small, (example,), dynamic_shapes=_any_batch())
    data = io.BytesIO()  # not the file: on a full disk torch's writer would end the process
    torch.export.save(program, data)

    def write(part: Path) -> None:
        part.write_bytes(data.getbuffer())
        _check_same(small, torch.export.load(io.BytesIO(part.read_bytes())).module(), example, path)

    write_atomically(path, write)


@torch.no_grad()
def _check_same(small: nn.Module, exported: Callable[[Tensor], Tensor], example: Tensor, path: Path) -> None:
    """Raises FileError if an exported model computes something else: exporters drop options without a word."""
    for batch in (1, 3):
        shape = (batch, *example.shape[1:])
        x = torch.randn(shape, generator=torch.Generator().manual_seed(batch)).to(example)
        expected = small(x)
        off = float((exported(x).to(expected) - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
        if not off < TOLERANCE:
            raise FileError(f"{path} was not written: the exported model's scores are off by {off:.1%} of the largest, "
                            f"so torch's exporter does not hold for some layer of this network")  # fmt: skip


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
