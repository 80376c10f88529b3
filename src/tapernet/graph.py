"""The graph of a model: this library's layers are single nodes, and every change in place is one.

Whoever calls a network of this library gives it one batch, so that all other arguments of the model have their
defaults: the graph is of that call.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import inplace_methods
from torch.fx.node import map_aggregate

from tapernet.nn.mode import eval_mode
from tapernet.nn.prefix import PrefixModule
from tapernet.nn.switch import Switch
from tapernet.nn.terminating import TerminatingConv2d


class Tracer(fx.Tracer):
    """torch's tracer, with the exceptions above."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node."""
        own = isinstance(m, (PrefixModule, Switch, TerminatingConv2d))
        return own or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The model's forward and its arguments: a proxy for the first one, the defaults of the others."""
        forward, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        proxies = [a for a in arguments if isinstance(a, fx.Proxy)]
        if proxies and str(proxies[0].node.target).startswith("*"):
            raise TypeError("its forward takes any number of inputs")
        defaults = {id(p): self._default(p.node) for p in proxies[1:] if _may_be_left_out(p.node)}
        return forward, [defaults.get(id(a), a) for a in arguments]

    def _default(self, node: fx.Node) -> Any:
        self.graph.erase_node(node)
        return node.args[0] if node.args else {} if str(node.target).startswith("**") else ()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a node's value while the model is traced."""
        return _Proxy(node, self)


def trace(model: nn.Module) -> fx.GraphModule:
    """The model's graph in eval mode; raises whatever its forward raises on proxies."""
    with eval_mode(model):
        return fx.GraphModule(model, Tracer().trace(model))


def _may_be_left_out(node: fx.Node) -> bool:
    return bool(node.args) or str(node.target).startswith("*")


class _Proxy(fx.Proxy):
    """Keeps `x += y` and its like; fx itself writes `x = x + y`, which those that hold the old x do not see."""


def _kept(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def operate(x: fx.Proxy, y: Any) -> fx.Proxy:
        return x.tracer.create_proxy("call_function", getattr(operator, name), (x, y), {})

    return operate


for _name in inplace_methods.keys() - {"setitem"}:  # assignments to a part stay without a graph, as fx has it
    setattr(_Proxy, f"__{_name}__", _kept(_name))


class Shapes(fx.Interpreter):
    """Runs the graph and notes shapes. torch's ShapeProp does so too, but prints a traceback where a model fails.

    A node that computes tensors has the shape of its result in its meta data; None if it is not a single tensor.

    Attributes:
        place: where in the model the run is.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # an error keeps the words of whoever raised it
        self.place = type(module).__name__

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node and notes the shape of its result."""
        self.place = place(n)
        result = super().run_node(n)
        tensors: list[Tensor] = []
        map_aggregate(result, lambda leaf: tensors.append(leaf) if isinstance(leaf, Tensor) else None)
        if tensors:
            n.meta["shape"] = result.shape if isinstance(result, Tensor) else None
        return result


def shape(node: fx.Node) -> torch.Size:
    """The shape of a tensor in the example's pass."""
    size: torch.Size = node.meta["shape"]
    return size


def has_shape(value: Any) -> bool:
    """Whether this argument of a node is a single tensor."""
    return isinstance(value, fx.Node) and value.meta.get("shape") is not None


def place(node: fx.Node) -> str:
    """Where in the model a node is: its module's path, and the operation if it is not a module."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    operation = getattr(node.target, "__name__", node.target)
    return f"{path}: {operation}" if path else f"model: {operation}"
