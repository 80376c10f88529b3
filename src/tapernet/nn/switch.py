"""A layer with several versions, one for each range of budgets (MP-IDP: a first and a last layer for every profile)."""

from bisect import bisect_left
from collections.abc import Sequence

from torch import Tensor, nn


class Switch(nn.Module):
    """Runs the version whose range of budgets holds the budget of the moment.

    Args:
        versions: one module for each range.
        ranges: the upper percent of each range, increasing, the last 100.
    """

    def __init__(self, versions: Sequence[nn.Module], ranges: Sequence[int]) -> None:
        super().__init__()
        self.versions, self.ranges = nn.ModuleList(versions), tuple(ranges)
        self.active = len(self.ranges) - 1

    def set_percent(self, percent: int) -> None:
        """Takes the version whose range holds `percent`."""
        self.active = bisect_left(self.ranges, percent)

    def idle(self) -> list[nn.Module]:
        """The versions that do not run now."""
        return [m for i, m in enumerate(self.versions) if i != self.active]

    def forward(self, x: Tensor) -> Tensor:
        """Runs the active version."""
        out: Tensor = self.versions[self.active](x)
        return out
