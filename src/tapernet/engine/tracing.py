"""The graph of a network with the shapes of an example, as `lower` reads it."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from tapernet.convert.terminate import trace
from tapernet.engine.functions import reshapes_to_flatten
from tapernet.errors import ConfigError, TerminationError
from tapernet.nn.mode import eval_mode
from tapernet.nn.norm import PrefixBatchNorm


def trace_with_shapes(model: nn.Module, example: Tensor) -> fx.GraphModule | str:
    """The graph, with what each node computes of the example in its meta data; or why there is none.

    Raises:
        ConfigError: the model does not run on the example.
    """
    try:
        graph = trace(model)
    except TerminationError as error:
        return str(error)
    try:
        with torch.no_grad(), eval_mode(model):
            _Shapes(graph).run(example)
    except Exception as error:  # whatever the model's forward raises
        raise ConfigError(
            f"{type(model).__name__} does not run on the example of shape {tuple(example.shape)}: {error}"
        ) from error
    reshapes_to_flatten(graph)
    return graph


class _Shapes(fx.Interpreter):
    """Runs the graph and leaves empty tensors of the results' shapes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # an error keeps the words of whoever raised it

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A batch-norm changes no shape, and need not have statistics for the budget of the moment.
        return (
            args[0]
            if isinstance(self.fetch_attr(target), PrefixBatchNorm)
            else super().call_module(target, args, kwargs)
        )

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["example"] = torch.empty_like(result, device="meta") if isinstance(result, Tensor) else result
        return result
