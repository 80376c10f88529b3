"""A network's steps, run one after the other on a batch."""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tapernet.engine.dial import Dial, Setting
from tapernet.engine.lower import ByTorch, Lowered, Native
from tapernet.engine.native import extension
from tapernet.errors import ConfigError

Size = tuple[int, int]


class NativeStep:
    """A native run with its plans: one for each setting and image size that it has met."""

    def __init__(self, native: Native, keys: Sequence[str]) -> None:
        self.network, self.stops, self.keys = native.network, native.stops, list(keys)
        self.inputs, self.outputs = native.inputs, native.outputs
        self._plans: dict[tuple[Setting, tuple[Size, ...]], Any] = {}
        self._lock = threading.Lock()

    def plan(self, setting: Setting, sizes: tuple[Size, ...]) -> Any:
        """The plan of a setting and the heights and widths of the inputs.

        Raises:
            ConfigError: the images are too small, or of another size than a linear layer has weights for.
        """
        found = self._plans.get((setting, sizes))
        if found is None:
            with self._lock:
                found = self._plans.get((setting, sizes)) or self._make(setting, sizes)
                self._plans[setting, sizes] = found
        return found

    def _make(self, setting: Setting, sizes: tuple[Size, ...]) -> Any:
        positions = [stops.positions(setting.kept) for stops in self.stops]
        norm = self.keys.index(setting.key) if setting.key in self.keys else 0
        try:
            return extension().Plan(self.network, setting.kept, setting.range, norm, positions, sizes)
        except ValueError as error:
            raise ConfigError(f"images of {' and '.join(f'{h} x {w}' for h, w in sizes)} pixels: {error}") from error

    def run(self, setting: Setting, inputs: Sequence[Tensor], threads: int) -> list[Tensor]:
        """The outputs, features as (n, features)."""
        arrays = [_as_images(x) for x in inputs]
        plan = self.plan(setting, tuple([(x.shape[2], x.shape[3]) for x in arrays]))
        count = len(arrays[0])
        outputs = [torch.empty(count, *plan.output_shape(i)) for i in range(len(self.outputs))]
        if count:
            plan.run(arrays, outputs, threads)
        return [out.flatten(1) if flat else out for out, (_, flat) in zip(outputs, self.outputs, strict=True)]

    def times(self, setting: Setting, inputs: Sequence[Tensor]) -> dict[str, float]:
        """Seconds of each operation of a run on one thread."""
        arrays = [_as_images(x) for x in inputs]
        plan = self.plan(setting, tuple([(x.shape[2], x.shape[3]) for x in arrays]))
        outputs = [torch.empty(len(arrays[0]), *plan.output_shape(i)) for i in range(len(self.outputs))]
        return dict(zip(self.network.op_names, plan.run(arrays, outputs, 1, True), strict=True))

    def plan_bytes(self) -> int:
        """Bytes that the plans add to the weights."""
        return sum(plan.bytes() for plan in self._plans.values())


class Program:
    """A lowered network.

    Args:
        lowered: its steps.
        dial: with the layers that torch runs.
        attributes: tensors that the graph reads by name.
    """

    def __init__(self, lowered: Lowered, dial: Dial, attributes: dict[str, Tensor]) -> None:
        self.rows, self._dial, self._attributes = lowered.rows, dial, attributes
        self._inputs, self._result = lowered.inputs, lowered.result
        self.steps = [NativeStep(s, lowered.keys) if isinstance(s, Native) else s for s in lowered.steps]
        self._all_native = not any(isinstance(s, ByTorch) for s in self.steps)

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
        env: dict[fx.Node, Any] = {self._inputs[0]: x}
        for step in self.steps:
            if isinstance(step, NativeStep):
                results = step.run(setting, [env[node] for node in step.inputs], threads)
                for (node, _), result in zip(step.outputs, results, strict=True):
                    env[node] = result
            else:
                env[step.node] = self._by_torch(step.node, env)
        out: Tensor = env[self._result]
        return out

    def times(self, setting: Setting, x: Tensor) -> dict[str, float]:
        """Seconds of each native operation of a run on one thread."""
        env: dict[fx.Node, Any] = {self._inputs[0]: x}
        found: dict[str, float] = {}
        for step in self.steps:
            if isinstance(step, NativeStep):
                inputs = [env[node] for node in step.inputs]
                found |= step.times(setting, inputs)
                for (node, _), result in zip(step.outputs, step.run(setting, inputs, 1), strict=True):
                    env[node] = result
            else:
                env[step.node] = self._by_torch(step.node, env)
        return found

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
    return (x if x.dim() == 4 else x.view(*x.shape, 1, 1)).contiguous()
