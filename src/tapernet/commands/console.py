"""Where commands print."""

from typing import Any

from rich.console import Console


def show(what: Any) -> None:
    """Prints a text or a table, as wide as the terminal of the moment."""
    Console().print(what)
