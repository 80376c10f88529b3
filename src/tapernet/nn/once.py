"""Several budgets over one batch: what they have in common is computed once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from tapernet.nn.prefix import PrefixLayer
from tapernet.nn.terminating import TerminatingConv2d


def first_layers(net: nn.Module) -> list[PrefixLayer]:
    """The layers whose input no budget cuts; those that count their work are left out."""
    layers = [m for m in net.modules() if isinstance(m, PrefixLayer) and not isinstance(m, TerminatingConv2d)]
    return [layer for layer in layers if all(span.group is None for span in layer.inputs.spans)]


@contextmanager
def computing_once(layers: Sequence[PrefixLayer]) -> Iterator[None]:
    """Lets `first_layers` keep their outputs from one call to the next, inside the block.

    The first layer's outputs at a small budget are the first of those at a large one, and its input is the same at
    both. So calls over one batch, the largest budget first, compute it once and slice it; gradients of all of them
    flow back through the one result. In the TESLA paper's MLP that layer does 88% of the MACs.

    Parameters must not change inside the block.
    """
    for layer in layers:
        layer.__dict__["forward"] = _Once(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


class _Once:
    """A layer's forward that remembers the widest output over its last input."""

    def __init__(self, layer: PrefixLayer) -> None:
        self.layer = layer
        self.input: Tensor | None = None
        self.version, self.kept = 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        kept = layer.outputs.kept
        if kept > self.kept or not self._seen(x):
            self.output: Tensor = type(layer).forward(layer, x)
            self.input, self.version, self.kept = x, x._version, kept
        return layer.outputs.select(self.output, layer.channel_dim)

    def _seen(self, x: Tensor) -> bool:
        """Whether x is the last input, or another view of it (flattening makes a new one at each call)."""
        last = self.input
        # The last input is held, so nothing else can have come to lie in its memory.
        return (
            last is not None
            and x.data_ptr() == last.data_ptr()
            and (x.shape, x.stride(), x.dtype, x._version) == (last.shape, last.stride(), last.dtype, self.version)
        )
