"""Other runtimes, to measure an engine against. A runtime is one function here."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tapernet.convert.export import quiet_exporters
from tapernet.extras import need
from tapernet.registry import Registry

Call = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """A runtime.

    Args:
        prepare: makes a call of a module on a batch, with a number of threads. One that is not exact reads the batch
            anew in every call.
        eager: whether it runs operations one by one, as PyTorch does by default.
        exact: whether it computes in float32.
    """

    prepare: Callable[[nn.Module, Tensor, int], Call]
    eager: bool = False
    exact: bool = True


PEERS: Registry[Peer] = Registry("runtime")


def _register(name: str, **facts: bool) -> Callable[[Callable[[nn.Module, Tensor, int], Call]], None]:
    def enter(prepare: Callable[[nn.Module, Tensor, int], Call]) -> None:
        PEERS.register(name)(Peer(prepare, **facts))

    return enter


@_register("torch", eager=True)
def _torch(model: nn.Module, x: Tensor, threads: int) -> Call:
    return _without_gradient(model, x)


@_register("torch, channels last", eager=True)
def _channels_last(model: nn.Module, x: Tensor, threads: int) -> Call:
    if x.dim() != 4:
        return _without_gradient(model, x)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _without_gradient(model, x.to(memory_format=torch.channels_last))


@_register("torch.compile")
def _torch_compile(model: nn.Module, x: Tensor, threads: int) -> Call:
    return _without_gradient(torch.compile(model), x)


@_register("ONNX Runtime")
def _onnx_runtime(model: nn.Module, x: Tensor, threads: int) -> Call:
    with _onnx_file(model, x) as path:
        return _session(path, x, threads)


@_register("ONNX Runtime, int8", exact=False)
def _onnx_runtime_int8(model: nn.Module, x: Tensor, threads: int) -> Call:
    need("onnxruntime", "export", "ONNX Runtime")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        """The batch once, from which the ranges of the values are taken."""

        def __init__(self) -> None:
            self.left = iter([{"images": x.numpy()}])

        def get_next(self) -> Any:
            return next(self.left, None)

    with _onnx_file(model, x) as path:
        prepared, small = path.with_name("prepared.onnx"), path.with_name("int8.onnx")
        quant_pre_process(path, prepared)
        quantization.quantize_static(prepared, small, Images(), per_channel=True)
        return _session(small, x, threads)


@_register("OpenVINO")
def _openvino(model: nn.Module, x: Tensor, threads: int) -> Call:
    return _openvino_in("f32", model, x, threads)


@_register("OpenVINO, bfloat16", exact=False)
def _openvino_bfloat16(model: nn.Module, x: Tensor, threads: int) -> Call:
    return _openvino_in("bf16", model, x, threads)


def _openvino_in(precision: str, model: nn.Module, x: Tensor, threads: int) -> Call:
    need("openvino", "openvino", "OpenVINO")
    import openvino

    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("the processor has no bfloat16")
    with _onnx_file(model, x) as path:
        # Without the hint it takes bfloat16 where the processor has that.
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
        compiled = core.compile_model(path, "CPU", options)
    request, array = compiled.create_infer_request(), x.numpy()
    return lambda: request.infer([array], share_inputs=True)[0]


def _without_gradient(model: Callable[[Tensor], Any], x: Tensor) -> Call:
    def call() -> Any:
        with torch.inference_mode():
            return model(x)

    return call


@contextmanager
def _onnx_file(model: nn.Module, x: Tensor) -> Iterator[Path]:
    """The model as an ONNX file for this very shape, which helps runtimes that plan ahead."""
    for package in ("onnx", "onnxscript"):
        need(package, "export", "an ONNX model")
    with tempfile.TemporaryDirectory() as folder, quiet_exporters():
        program = torch.onnx.export(
            model, (x,), dynamo=True, verbose=False, input_names=["images"], output_names=["scores"]
        )
        assert program is not None
        path = Path(folder) / "model.onnx"
        program.save(path, external_data=False)
        yield path


def _session(path: Path, x: Tensor, threads: int) -> Call:
    need("onnxruntime", "export", "ONNX Runtime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {"images": x.numpy()}
    return lambda: session.run(None, inputs)[0]
