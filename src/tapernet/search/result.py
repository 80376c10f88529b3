"""What a search found, beside uniform width."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tapernet.measure.latency import Latency


@dataclass(frozen=True)
class Candidate:
    """One choice of widths.

    Args:
        budget: per layer, as `TaperedNet.at` takes it.
        macs: of one image.
        accuracy: on the images that the search saw.
        confirmed: on the images that were held back from it; None if none were.
        latency: measured milliseconds of one image through the extracted network, on one thread; None if only MACs
            were limited.
    """

    budget: Mapping[str, float]
    macs: int
    accuracy: float
    confirmed: float | None = None
    latency: Latency | None = None


@dataclass(frozen=True)
class SearchResult:
    """The best widths found under a limit, and uniform width under the same limit.

    Args:
        found: of the highest accuracy on the images that the search saw.
        uniform: the largest single budget within the limit.
        tried: choices whose accuracy was measured.
        exhaustive: whether these were all that the limit allows.
        max_macs: the limit, if it was one of MACs.
        max_ms: the limit, if it was one of time.
    """

    found: Candidate
    uniform: Candidate
    tried: int
    exhaustive: bool
    max_macs: float | None = None
    max_ms: float | None = None

    @property
    def beats_uniform(self) -> bool:
        """Whether what was found is more accurate than uniform width, on the images held back too if there are any.

        The best of many choices owes part of its lead to luck on the very images that chose it; those held back
        took no part in the choice.
        """
        ahead = self.found.accuracy > self.uniform.accuracy
        if self.found.confirmed is None or self.uniform.confirmed is None:
            return ahead
        return ahead and self.found.confirmed > self.uniform.confirmed

    @property
    def best(self) -> Candidate:
        """What was found if it beats uniform width, else uniform width."""
        return self.found if self.beats_uniform else self.uniform

    @property
    def within_limit(self) -> bool:
        """Whether `best` keeps the limit: for time, whether its measured median does."""
        if self.max_macs is not None:
            return self.best.macs <= self.max_macs
        return self.best.latency is not None and self.max_ms is not None and self.best.latency.median <= self.max_ms

    def verdict(self) -> str:
        """The result in a sentence."""
        how = "all choices" if self.exhaustive else f"{self.tried} choices"
        if not self.beats_uniform:
            return f"Of {how} tried, none was shown to be better than uniform width, which is kept."
        return f"The best of {how} tried is more accurate than uniform width within the same limit."

    def table(self) -> Any:
        """Both as a rich table."""
        from rich.table import Table

        limit = f"{self.max_macs:,.0f} MACs" if self.max_macs is not None else f"{self.max_ms:g} ms"
        table = Table(title=f"widths within {limit}", caption=self.verdict())
        for heading in ("widths", "MACs", "validation", "held back", "ms/image (quartiles)"):
            table.add_column(heading, justify="left" if heading == "widths" else "right")
        for name, c in (("uniform", self.uniform), ("found", self.found)):
            shares = sorted(set(c.budget.values()))
            spread = f"{shares[0]:.0%}" if len(shares) == 1 else f"{shares[0]:.0%} to {shares[-1]:.0%}"
            confirmed = "" if c.confirmed is None else f"{c.confirmed:.2%}"
            table.add_row(f"{name}, {spread}", f"{c.macs:,}", f"{c.accuracy:.2%}", confirmed, str(c.latency or ""))
        return table
