"""Running a network again and again on the same images while its checks change, from the first changed layer on."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from tapernet.convert.terminate import trace
from tapernet.errors import ConfigError
from tapernet.measure.accuracy import predicted
from tapernet.nn.check import Check
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import TaperedNet
from tapernet.nn.terminating import Outcome, TerminatingConv2d

GIGABYTE = 1 << 30
IN_PLACE = {"iadd", "isub", "imul", "itruediv", "setitem"}
"""Functions of the operator module that write into their input."""

LARGEST_BATCH = 100
LARGEST_BLOCK = 16 << 20
"""Bytes. The C library gives blocks beyond 32 MB back at once, and the system clears every page of the next one: with
batches of 78 MB that was half of the time of NiN."""

Checks = dict[str, tuple[Check, ...]]
"""The checks of each terminating layer, by its path."""
Cost = Callable[[str, Outcome], float]
"""What one call of a terminating layer cost, from its path and what it did."""
_Signature = tuple[object, ...]


@dataclass(frozen=True)
class BatchResult:
    """One batch under the checks of the moment.

    Args:
        scores: shape (batch, classes).
        right: images whose highest score is their label's.
        cost: of the terminating layers over the batch; 0 if nothing says what they cost.
    """

    scores: Tensor
    right: int
    cost: float


@dataclass
class _Saved:
    """The state of a run just before a layer: the values still needed, the cost so far, and the layer's full sums."""

    values: dict[fx.Node, Any]
    cost: float
    bytes: int
    full: list[Tensor] = field(default_factory=list)


class Rerun:
    """Runs batches of images under changing checks, and computes again only what a change can reach.

    A run remembers what goes into each terminating layer and its full sums, as long as there is room. The next run of
    the batch starts at the last layer before which all checks are as they were, and computes only that layer's partial
    sums. Weights and budget must not change meanwhile.

    Args:
        net: a network from `tapernet.terminate`, run in eval mode.
        images: standardised, shape (n, channels, height, width).
        labels: shape (n,).
        batch_size: images run at once; by default `usual_batch`.
        memory: bytes that remembered values may take; beyond it they are computed again.
        cost: of each call of a layer, to be added up as well.

    Attributes:
        layers: the terminating layers by path, in the order in which they run.
        executions: how often each of them was run on a batch.

    Raises:
        ConfigError: no terminating layer, or one that runs twice for an image.
        TerminationError: the network cannot be traced by torch.fx.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int | None = None,
        memory: int = 4 * GIGABYTE,
        cost: Cost | None = None,
    ) -> None:
        self.net, self.images, self.labels, self.cost = net, images, labels, cost
        if batch_size is None:
            batch_size = usual_batch(net, images)
        self.index = torch.split(torch.arange(len(images)), batch_size)
        self.memory, self.used = memory, 0
        inner = net.model if isinstance(net, TaperedNet) else net
        assert isinstance(inner, nn.Module)
        self._graph = trace(inner)
        self._nodes = list(self._graph.graph.nodes)
        self._copies = any(_works_in_place(self._graph, node) for node in self._nodes)
        self._prefix = "model." if inner is not net else ""
        self._starts = self._find_layers(inner)
        self.layers = {path: self._layer(path) for path in self._starts}
        self.executions: Counter[str] = Counter()
        self._saved: dict[int, dict[tuple[str, _Signature], _Saved]] = {}
        if not self.layers:
            raise ConfigError(f"{type(net).__name__} has no terminating layer: call terminate(model, example) first")

    def reorder(self, order: Tensor) -> None:
        """Takes the images in another order, shape (n,), and forgets everything."""
        self.index = torch.split(order, len(self.index[0]))
        self._saved, self.used = {}, 0

    @property
    def checks(self) -> Checks:
        """The checks of every layer; may be set."""
        return {path: layer.checks for path, layer in self.layers.items()}

    @checks.setter
    def checks(self, checks: Checks) -> None:
        for path, layer in self.layers.items():
            if layer.checks != checks[path]:
                layer.set_checks(checks[path])

    def run(self, batch: int) -> BatchResult:
        """The batch's result under the checks of the moment."""
        signatures = self._signatures()
        saved = self._saved.setdefault(batch, {})
        start = next((p for p in reversed(self._starts) if (p, signatures[p]) in saved), None)
        runner = _Runner(self, batch, signatures)
        with torch.inference_mode(), eval_mode(self.net):
            if start is None:
                scores = runner.run(self.images[self.index[batch]])
            else:
                state = saved[start, signatures[start]]
                runner.cost = state.cost
                # The interpreter skips what it has a value for: before the start, that is all, needed or not.
                skipped = dict.fromkeys(self._nodes[: self._starts[start]])
                values = {node: self._kept(value) for node, value in state.values.items()}
                scores = runner.run(initial_env=skipped | values)
        right = int((predicted(scores) == self.labels[self.index[batch]].to(scores.device)).sum())
        return BatchResult(scores, right, runner.cost)

    def run_all(self) -> tuple[int, float]:
        """Right answers over all images, and what they cost."""
        result = self.run_within(least=0, below=math.inf)
        assert result is not None
        return result

    def run_within(self, least: int, below: float) -> tuple[int, float] | None:
        """The same, or None as soon as there cannot be `least` right answers at a cost below `below`."""
        right, cost, left = 0, 0.0, len(self.images)
        for batch, index in enumerate(self.index):
            result = self.run(batch)
            right, cost, left = right + result.right, cost + result.cost, left - len(index)
            if right + left < least or cost >= below:
                return None
        return right, cost

    def put_hardest_first(self) -> int:
        """Takes the images in the order of their margins, the least sure first; the right answers among all of them.

        The margin is the score of an image's class less the best of the others. Runs that stop when too much is wrong
        (`run_within`) stop sooner.
        """
        right, margins = 0, []
        # Nothing of this pass is of use later, as the images change places.
        memory, self.memory = self.memory, 0
        for batch, index in enumerate(self.index):
            result = self.run(batch)
            right += result.right
            own = result.scores.gather(1, self.labels[index, None].to(result.scores.device))
            # The class itself is left out of the best of the others.
            others = result.scores.scatter(1, self.labels[index, None].to(own.device), -torch.inf).amax(1)
            margins.append(own[:, 0] - others)
        self.memory = memory
        self.reorder(torch.cat([m.cpu() for m in margins]).argsort())
        return right

    def settle(self, batch: int) -> None:
        """Forgets what was remembered of a batch under checks other than those of the moment."""
        signatures = self._signatures()
        saved = self._saved.get(batch, {})
        for key in [key for key in saved if signatures[key[0]] != key[1]]:
            self.used -= saved.pop(key).bytes

    def settle_all(self) -> None:
        """Settles every batch."""
        for batch in range(len(self.index)):
            self.settle(batch)

    def forget(self, batch: int) -> None:
        """Forgets all that was remembered of a batch."""
        self.used -= sum(state.bytes for state in self._saved.pop(batch, {}).values())

    def remember(
        self, batch: int, path: str, signature: _Signature, values: dict[fx.Node, Any], cost: float
    ) -> _Saved | None:
        """The state as it is kept; None if there is no room."""
        saved = self._saved[batch]
        size = sum(_bytes(value) for value in values.values())
        if (path, signature) not in saved and self.used + size <= self.memory:
            saved[path, signature] = _Saved({node: self._kept(v) for node, v in values.items()}, cost, size)
            self.used += size
        return saved.get((path, signature))

    def remember_sums(self, state: _Saved) -> None:
        """Takes account of full sums that a layer has left in a state; drops them if there is no room."""
        size = _bytes(state.full[0])
        if self.used + size > self.memory:
            state.full.clear()
        else:
            state.bytes += size
            self.used += size

    def _kept(self, value: Any) -> Any:
        """A value to be remembered, or to start from: a copy where an operation in place could reach it."""
        return value.clone() if isinstance(value, Tensor) and self._copies else value

    def _find_layers(self, inner: nn.Module) -> dict[str, int]:
        """Position in the graph of each terminating layer's call, by path."""
        starts: dict[str, int] = {}
        for position, node in enumerate(self._nodes):
            if node.op == "call_module" and isinstance(inner.get_submodule(str(node.target)), TerminatingConv2d):
                path = self._prefix + str(node.target)
                if path in starts:
                    raise ConfigError(f"{path} runs twice for an image: its checks cannot be placed")
                starts[path] = position
        return starts

    def _layer(self, path: str) -> TerminatingConv2d:
        layer = self.net.get_submodule(path)
        assert isinstance(layer, TerminatingConv2d)
        return layer

    def _signatures(self) -> dict[str, _Signature]:
        """What the input of each layer depends on: all that may change in the layers before it."""
        signatures: dict[str, _Signature] = {}
        before: _Signature = ()
        for path, layer in self.layers.items():
            signatures[path] = before
            before = (*before, (layer.options, layer.checks))
        return signatures


def usual_batch(net: nn.Module, images: Tensor) -> int:
    """How many images to run at once, so that no layer's output takes more than `LARGEST_BLOCK`."""
    largest = _bytes(images[:1])

    def measure(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, _bytes(output))

    handles = [module.register_forward_hook(measure) for module in net.modules()]
    try:
        with torch.inference_mode(), eval_mode(net):
            net(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return max(1, min(LARGEST_BATCH, LARGEST_BLOCK // largest))


class _Runner(fx.Interpreter):
    """Runs the graph, remembers the state before each terminating layer, and adds up the cost."""

    def __init__(self, rerun: Rerun, batch: int, signatures: dict[str, _Signature]) -> None:
        super().__init__(rerun._graph)
        self.rerun, self.batch, self.signatures = rerun, batch, signatures
        self.cost: float = 0

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node; before a terminating layer, the state is remembered."""
        path = self.rerun._prefix + str(n.target)
        layer = self.rerun.layers.get(path) if n.op == "call_module" else None
        if layer is None:
            return super().run_node(n)
        # The interpreter has dropped the values that nothing needs any more.
        needed = {node: value for node, value in self.env.items() if value is not None}
        state = self.rerun.remember(self.batch, path, self.signatures[path], needed, self.cost)
        self.rerun.executions[path] += 1
        before, layer.observer = layer.observer, self._observer(path) or layer.observer
        known = state is None or state.full
        layer.memo = None if state is None else state.full
        try:
            result = super().run_node(n)
        finally:
            layer.observer, layer.memo = before, None
        if state is not None and not known:
            self.rerun.remember_sums(state)
        return result

    def _observer(self, path: str) -> Callable[[Outcome], None] | None:
        """What adds up the cost of a layer's call, if anything says what it costs."""
        cost = self.rerun.cost
        if cost is None:
            return None

        def add(outcome: Outcome) -> None:
            self.cost += cost(path, outcome)

        return add


def _works_in_place(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node may write into its input, as ReLU often does; the names of such functions end in "_"."""
    if node.op == "call_module":
        return bool(getattr(graph.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    flagged = bool(node.kwargs.get("inplace")) or any(argument is True for argument in node.args)
    return node.op.startswith("call_") and (name.endswith("_") or name in IN_PLACE or flagged)


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
