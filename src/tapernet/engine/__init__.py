"""The native runtime: a network compiled for this processor, which switches budgets in microseconds."""

from tapernet.engine.compile import compile
from tapernet.engine.engine import Engine
from tapernet.engine.operator import with_operators

__all__ = ["Engine", "compile", "with_operators"]
