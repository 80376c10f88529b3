"""A network's steps, run one after the other on a batch."""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tapernet.engine.dial import Dial, Setting
from tapernet.engine.native import extension
from tapernet.engine.steps import ByTorch, Lowered, Native
from tapernet.errors import ConfigError

Size = tuple[int, int]
MOST_PLANS = 256
"""Budgets times image sizes that are remembered at once."""


class Plan:
    """A native run at one setting, for images of one size.

    Args:
        native: the extension's plan.
        inputs: how many arrays it reads.
        flat: of each output, whether it is wanted as features.
    """

    def __init__(self, native: Any, inputs: int, flat: Sequence[bool]) -> None:
        self.native = native
        self.inputs = [native.input_shape(i) for i in range(inputs)]
        shapes = [native.output_shape(i) for i in range(len(flat))]
        self.outputs = [(math.prod(s),) if f else s for s, f in zip(shapes, flat, strict=True)]

    def run(self, arrays: Sequence[Tensor], threads: int, timed: bool = False) -> tuple[list[Tensor], list[float]]:
        """The outputs, (n, channels, height, width) or (n, features); with `timed`, also each operation's seconds.

        The kernels trust the addresses that they get, so that the shapes are compared here.
        """
        count = arrays[0].shape[0]
        for x, shape in zip(arrays, self.inputs, strict=True):
            if x.shape != (count, *shape) or not x.is_contiguous() or x.dtype != torch.float32:
                raise ConfigError(f"an operation left to torch gives {x.dtype} of shape {tuple(x.shape)}, "
                                  f"not torch.float32 of shape {(count, *shape)}")  # fmt: skip
        outputs = [torch.empty(count, *shape) for shape in self.outputs]
        seconds = self.native.run(
            [x.data_ptr() for x in arrays], [x.data_ptr() for x in outputs], count, threads, timed
        )
        return outputs, seconds


class NativeStep:
    """A native run with its plans: one for each setting and image size that it has met."""

    def __init__(self, native: Native) -> None:
        self.network, self.stops = native.network, native.stops
        self.inputs, self.outputs = native.inputs, native.outputs
        self._plans: dict[tuple[Setting, tuple[Size, ...]], Plan] = {}
        self._lock = threading.Lock()

    def run(self, setting: Setting, inputs: Sequence[Tensor], threads: int) -> list[Tensor]:
        """The outputs, features as (n, features)."""
        arrays = [_as_images(x) for x in inputs]
        return self._plan(setting, arrays).run(arrays, threads)[0]

    def times(self, setting: Setting, inputs: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, float]]:
        """The outputs, and the seconds of each operation on one thread."""
        arrays = [_as_images(x) for x in inputs]
        outputs, seconds = self._plan(setting, arrays).run(arrays, 1, timed=True)
        return outputs, dict(zip(self.network.op_names, seconds, strict=True))

    def _plan(self, setting: Setting, arrays: Sequence[Tensor]) -> Plan:
        """The plan of a setting and the arrays' heights and widths.

        Raises:
            ConfigError: the images are too small, or of another size than a linear layer has weights for.
        """
        sizes = tuple([(x.shape[2], x.shape[3]) for x in arrays])
        found = self._plans.get((setting, sizes))
        if found is None:
            with self._lock:
                found = self._plans.get((setting, sizes)) or self._make(setting, sizes)
                if len(self._plans) >= MOST_PLANS:
                    self._plans.pop(next(iter(self._plans)), None)  # the oldest
                self._plans[setting, sizes] = found
        return found

    def _make(self, setting: Setting, sizes: tuple[Size, ...]) -> Plan:
        positions = [stops.positions(setting.kept) for stops in self.stops]
        try:
            native = extension().Plan(self.network, setting.kept, setting.range, setting.norms, positions, sizes)
        except ValueError as error:
            raise ConfigError(f"images of {' and '.join(f'{h} x {w}' for h, w in sizes)} pixels: {error}") from error
        return Plan(native, len(self.inputs), [flat for _, flat in self.outputs])

    def plan_bytes(self) -> int:
        """Bytes that the plans add to the weights."""
        return sum(plan.native.bytes() for plan in self._plans.values())


class Program:
    """A lowered network.

    Args:
        lowered: its steps.
        dial: with the layers that torch runs.
        attributes: tensors that the graph reads by name.
    """

    def __init__(self, lowered: Lowered, dial: Dial, attributes: dict[str, Tensor]) -> None:
        self.rows, self._dial, self._attributes = lowered.rows, dial, attributes
        self._input, self._result = lowered.input, lowered.result
        self.steps = [NativeStep(s) if isinstance(s, Native) else s for s in lowered.steps]
        self._all_native = not any(isinstance(s, ByTorch) for s in self.steps)
        # Nearly always, and small networks feel the difference.
        self._only = self.native[0] if len(self.steps) == 1 and self._all_native else None

    @property
    def native(self) -> list[NativeStep]:
        """The native runs."""
        return [step for step in self.steps if isinstance(step, NativeStep)]

    @property
    def turns_layers(self) -> bool:
        """Whether a budget changes layers that torch runs, so that two budgets cannot run at once."""
        return not self._all_native

    def run(self, setting: Setting, x: Tensor, threads: int) -> Tensor:
        """The network's output."""
        if self._only is not None:
            return self._only.run(setting, [x], threads)[0]
        env = self._walk(x, lambda step, inputs: step.run(setting, inputs, threads))
        out: Tensor = env[self._result]
        return out

    def times(self, setting: Setting, x: Tensor) -> dict[str, float]:
        """Seconds of each native operation of a run on one thread."""
        found: dict[str, float] = {}

        def timed(step: NativeStep, inputs: Sequence[Tensor]) -> list[Tensor]:
            results, seconds = step.times(setting, inputs)
            found.update(seconds)
            return results

        self._walk(x, timed)
        return found

    def _walk(self, x: Tensor, run: Callable[[NativeStep, Sequence[Tensor]], list[Tensor]]) -> dict[fx.Node, Any]:
        """What every step computes, native ones by `run`."""
        env: dict[fx.Node, Any] = {self._input: x}
        for step in self.steps:
            if isinstance(step, NativeStep):
                results = run(step, [env[node] for node in step.inputs])
                env |= {node: result for (node, _), result in zip(step.outputs, results, strict=True)}
            else:
                env[step.node] = self._by_torch(step.node, env)
        return env

    def _by_torch(self, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: env[n])
        if node.op == "call_module":
            return self._dial.layers[str(node.target)](*args, **kwargs)
        if node.op == "get_attr":
            return self._attributes[str(node.target)]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _as_images(x: Tensor) -> Tensor:
    """The same numbers as an ordinary array (n, channels, height, width), which the kernels can read."""
    if x.is_neg():
        x = x.resolve_neg()
    x = x if x.dim() == 4 else x[:, :, None, None]
    return x if x.is_contiguous() else x.contiguous()
