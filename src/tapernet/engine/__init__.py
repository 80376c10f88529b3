"""The native runtime: a network compiled for this processor, which switches budgets in microseconds."""

from tapernet.engine.compile import compile
from tapernet.engine.engine import Engine

__all__ = ["Engine", "compile"]
