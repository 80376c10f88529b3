"""`tapernet zoo`."""

from tapernet.commands.console import show
from tapernet.zoo import listing


def zoo() -> None:
    """Lists the networks with their MACs, and the trained ones."""
    for table in listing.tables():
        show(table)
