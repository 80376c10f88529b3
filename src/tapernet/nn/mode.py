"""Eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Puts the network in eval mode for the block, and each of its modules back in the mode it was in."""
    training = {module: module.training for module in net.modules()}
    try:
        net.eval()
        yield
    finally:
        for module, was in training.items():
            module.training = was
