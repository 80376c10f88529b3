"""The graph of a network with the shapes of an example, as `lower` reads it."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import inplace_methods

from tapernet.convert.terminate import LayerTracer
from tapernet.engine.functions import drop_idle, reshapes_to_flatten
from tapernet.errors import ConfigError
from tapernet.nn.mode import eval_mode
from tapernet.nn.norm import PrefixBatchNorm


def trace_with_shapes(model: nn.Module, example: Tensor) -> fx.GraphModule | str:
    """The graph, with what each node computes of the example in its meta data; or why there is none.

    Each node of the graph may be taken for a function of what it reads: where one changes in place what is read again,
    there is no graph.

    Raises:
        ConfigError: the model does not run on the example.
    """
    try:
        with eval_mode(model):
            graph = fx.GraphModule(model, _InPlaceTracer().trace(model))
    except Exception as error:  # fx raises whatever the model's forward raises on proxies
        return f"{type(model).__name__} cannot be traced by torch.fx: {error}"
    try:
        # In inference mode torch counts no changes in place. The copy is for a network that changes its input.
        with torch.inference_mode(False), torch.no_grad(), eval_mode(model):
            shapes = _Shapes(graph)
            shapes.run(example.clone(memory_format=torch.contiguous_format))
    except Exception as error:  # whatever the model's forward raises
        raise ConfigError(
            f"{type(model).__name__} does not run on the example of shape {tuple(example.shape)}: {error}"
        ) from error
    if shapes.read_again:
        node = shapes.read_again[0]
        return f"{shapes.overwritten[node]} changes {node} in place, which is read again"
    reshapes_to_flatten(graph)
    drop_idle(graph, bool(shapes.overwritten))
    return graph


class _InPlaceTracer(LayerTracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _InPlaceProxy(node, self)


class _InPlaceProxy(fx.Proxy):
    """Keeps `x += y` and its like; fx itself writes `x = x + y`, which those that hold the old x do not see."""


def _kept(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def operate(x: fx.Proxy, y: Any) -> fx.Proxy:
        return x.tracer.create_proxy("call_function", getattr(operator, name), (x, y), {})

    return operate


for _name in inplace_methods.keys() - {"setitem"}:  # assignments to a part stay without a graph, as fx has it
    setattr(_InPlaceProxy, f"__{_name}__", _kept(_name))


class _Shapes(fx.Interpreter):
    """Runs the graph, leaves empty tensors of the results' shapes, and watches for changes in place.

    Attributes:
        overwritten: nodes whose results have changed since, each with the node that first changed it.
        read_again: those of them that a later node reads, or the next call.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # an error keeps the words of whoever raised it
        self.overwritten: dict[fx.Node, fx.Node] = {}
        self.read_again: list[fx.Node] = []
        self._memory: dict[fx.Node, set[fx.Node]] = {}
        """Of each node, itself and those before it whose memory its result lies in."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A batch-norm changes no shape, and need not have statistics for the budget of the moment.
        return (
            args[0].clone()
            if isinstance(self.fetch_attr(target), PrefixBatchNorm)
            else super().call_module(target, args, kwargs)
        )

    def run_node(self, n: fx.Node) -> Any:
        read = [(node, x, x._version) for node in n.all_input_nodes for x in _tensors(self.env[node])]
        result = super().run_node(n)
        n.meta["example"] = torch.empty_like(result, device="meta") if isinstance(result, Tensor) else result
        self.read_again += [node for node in n.all_input_nodes if node in self.overwritten]
        self._overwrite(n, [node for node, x, version in read if x._version != version])
        places = {_place(x) for x in _tensors(result)}
        self._memory[n] = {n}.union(*(self._memory[node] for node, x, _ in read if _place(x) in places))
        return result

    def _overwrite(self, n: fx.Node, changed: list[fx.Node]) -> None:
        """Records that a node changes some that it reads, and with them all that may share their memory."""
        memory = set[fx.Node]().union(*(self._memory[node] for node in changed))
        for node, own in self._memory.items():
            if own & memory:
                self.overwritten.setdefault(node, n)
        self.read_again += [node for node in memory if node.op == "get_attr"]


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of a node's result that have memory to share, and may change: those of inference mode do not here."""
    if isinstance(value, Tensor):
        return [value] if value.layout == torch.strided and not value.is_inference() else []
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [x for part in values for x in _tensors(part)]


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
