"""Learned profiles over the channels."""

from typing import Any


def draw(ax: Any, curve: dict[str, Any]) -> None:
    """A line for each seed."""
    for i, profile in enumerate(curve["learned_profile"]):
        ax.plot(range(1, len(profile) + 1), profile, lw=1, label=f"{curve['name']}, seed {curve['seeds'][i]}")
    ax.set(xlabel="channel", ylabel="learned coefficient")
