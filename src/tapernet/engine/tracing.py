"""The graph of a network with the shapes of an example, as `lower` reads it."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from tapernet.engine.functions import drop_idle, reshapes_to_flatten
from tapernet.errors import ConfigError
from tapernet.graph import Shapes, trace
from tapernet.nn.mode import eval_mode
from tapernet.nn.norm import PrefixBatchNorm

BATCHES = 2, 3
"""Images in two runs of a graph, which tell what grows with the batch."""


def trace_with_shapes(model: nn.Module, example: Tensor) -> fx.GraphModule | str:
    """The graph, with what each node computes of the example in its meta data; or why there is none.

    Each node of the graph may be taken for a function of what it reads: where one changes in place what is read again,
    there is no graph.

    Raises:
        ConfigError: the model does not run on the example.
    """
    try:
        graph = trace(model)
    except Exception as error:  # fx raises whatever the model's forward raises on proxies
        return f"{type(model).__name__} cannot be traced by torch.fx: {error}"
    try:
        shapes, more = (_run(graph, model, example, images) for images in BATCHES)
    except Exception as error:  # whatever the model's forward raises
        _check_runs(model, example, error)
        return f"the graph of {type(model).__name__} does not run on a batch of another size: {error}"
    for node, found in shapes.results.items():
        node.meta |= _meta(found, more.results[node])
    if shapes.read_again:
        node = shapes.read_again[0]
        return f"{shapes.overwritten[node]} changes {node} in place, which is read again"
    reshapes_to_flatten(graph)
    drop_idle(graph, bool(shapes.overwritten))
    return graph


def _run(graph: fx.GraphModule, model: nn.Module, example: Tensor, images: int) -> "_Watched":
    # In inference mode torch counts no changes in place. The copy is for a network that changes its input.
    with torch.inference_mode(False), torch.no_grad(), eval_mode(model):
        watched = _Watched(graph)
        watched.run(torch.cat([example, example])[:images])
        return watched


def _check_runs(model: nn.Module, example: Tensor, error: Exception) -> None:
    try:
        with torch.no_grad(), eval_mode(model):
            model(example.clone())
    except Exception:
        raise ConfigError(
            f"{type(model).__name__} does not run on the example of shape {tuple(example.shape)}: {error}"
        ) from error


def _meta(found: Any, more: Any) -> dict[str, Any]:
    """What is known of a result, from those of the two `BATCHES`.

    It has some images for each of the network's if its first dimension alone grows with the batch.
    """
    if not isinstance(found, Tensor) or not isinstance(more, Tensor):
        return {}
    few, many = BATCHES
    images = len(found) // few if found.dim() and found.shape[1:] == more.shape[1:] else 0
    grows = images > 0 and (len(found), len(more)) == (few * images, many * images)
    return {"dtype": found.dtype, "images": images if grows else None}


class _Watched(Shapes):
    """Runs the graph, and watches for changes in place.

    Attributes:
        results: of each node, as empty tensors.
        overwritten: nodes whose results have changed since, each with the node that first changed it.
        read_again: those of them that a later node reads, or the next call.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.results: dict[fx.Node, Any] = {}
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
        self.results[n] = torch.empty_like(result, device="meta") if isinstance(result, Tensor) else result
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
