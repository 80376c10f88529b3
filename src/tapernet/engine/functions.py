"""Functions and methods in a graph as the modules that do the same."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tapernet.engine.values import shape_of

ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
CONCATENATIONS = {torch.cat, torch.concat}


def _relu(x: Tensor, inplace: bool = False) -> nn.Module:
    return nn.ReLU()


def _relu6(x: Tensor, inplace: bool = False) -> nn.Module:
    return nn.ReLU6()


def _dropout(x: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> nn.Module | None:
    return None if training else nn.Identity()


def _flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> nn.Module:
    return nn.Flatten(start_dim, end_dim)


def _max_pool(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> nn.Module:  # fmt: skip
    return nn.MaxPool2d(kernel_size, stride or None, padding, dilation, return_indices, ceil_mode)


def _average_pool(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> nn.Module:  # fmt: skip
    return nn.AvgPool2d(kernel_size, stride or None, padding, ceil_mode, count_include_pad, divisor_override)


def _adaptive_average_pool(x: Tensor, output_size: Any) -> nn.Module:
    return nn.AdaptiveAvgPool2d(output_size)


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False) -> nn.Module | None:
    if not isinstance(dim, Sequence) or sorted(d % 4 for d in dim) != [2, 3]:
        return None
    return nn.AdaptiveAvgPool2d(1)  # what it leaves out shows in the shape


_MODULES: dict[Any, Callable[..., nn.Module | None]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), _relu),
    F.relu6: _relu6,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    torch.flatten: _flatten,
    "flatten": _flatten,
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _average_pool,
    F.adaptive_avg_pool2d: _adaptive_average_pool,
    torch.mean: _mean,
    "mean": _mean,
    "contiguous": lambda x: nn.Identity(),
}


def concatenated(node: fx.Node) -> Sequence[Any]:
    """What a concatenation along the channels consists of; nothing if it is another one, or one of a computed list."""
    parts = node.kwargs.get("tensors", node.args[0] if node.args else ())
    along = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    rank = len(shape_of(node) or ())
    return parts if isinstance(parts, (list, tuple)) and along in (1, 1 - rank) else ()


def module_of(node: fx.Node) -> nn.Module | None:
    """A module that does what a call of a function or method does; None if there is none."""
    make = _MODULES.get(node.target) if node.op in ("call_function", "call_method") else None
    if make is None or len(node.all_input_nodes) != 1:  # other than a value, an argument is computed
        return None
    try:
        return make(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # an argument that the module does not have
        return None


IDLE = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
"""Modules that hand on their input in eval mode."""


def drop_idle(graph: fx.GraphModule, in_place: bool) -> None:
    """Takes out what hands on its input, so that whoever read the result reads the input.

    Args:
        graph: in eval mode.
        in_place: whether anything in it changes in place: then a copy, which `contiguous` may make, stays.
    """
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        module = modules[str(node.target)] if node.op == "call_module" else module_of(node)
        idle = type(module) in IDLE and not (in_place and node.target == "contiguous")
        if idle or (type(module) is nn.Flatten and shape_of(node) == shape_of(node.all_input_nodes[0])):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.graph.erase_node(node)


def reshapes_to_flatten(graph: fx.GraphModule) -> None:
    """Writes reshapes that flatten the image as such, so that computing their sizes is not needed."""
    for node in list(graph.graph.nodes):
        if node.op != "call_module" and (node.target in ("view", "reshape", torch.reshape)) and _flattens(node):
            with graph.graph.inserting_before(node):
                flat = graph.graph.call_function(torch.flatten, (node.all_input_nodes[0], 1))
            flat.meta = dict(node.meta)
            node.replace_all_uses_with(flat)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def _flattens(node: fx.Node) -> bool:
    """Whether a reshape keeps the batch and makes features of the rest, for every batch size."""
    source, result = shape_of(node.all_input_nodes[0]), shape_of(node)
    if source is None or result is None or len(result) != 2 or source[0] != result[0]:
        return False
    sizes: Any = node.args[1:]
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if len(sizes) != 2:
        return False
    # A number of features would be that of the example, as images of another size show where a layer reads them.
    batch, features = sizes
    sized = not isinstance(features, int) or features == -1 or all(user.op == "call_module" for user in node.users)
    return sized and (batch == -1 or not isinstance(batch, int))
