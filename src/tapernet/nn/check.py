"""Checks: after how many terms a filter's sum of products is looked at, and below what it stops."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tapernet.errors import ConfigError

BITS = 8
"""What the sums of a check may be rounded to."""
Numbers = int | float | Sequence[float]


@dataclass(frozen=True)
class Check:
    """One check in every filter of a layer (ET paper, section 4; what it calls a checkpoint).

    A filter with n terms (its weights, and its bias if it has one) that is checked at position c sums its first c
    products. If that partial sum is below the threshold, the filter stops there. At position n nothing is left to save,
    so that a filter with this position never stops.

    Args:
        position: c in 1..n, for the layer at full width: a number for all filters, or one for each.
        share: c as a share of n in (0, 1]; c = floor(n * share), at least 1.
        bits: 8 checks the sum of all products instead, with inputs and weights rounded to so many bits, before any
            other product is done (see `rounded_sums`). Exactly one of the three is given.
        threshold: finite; a number for all filters, or one for each. With bits it may well be above zero: an output
            below it keeps its rounded sum, and only larger ones are computed in full (Precision Gating, Zhang et al.
            2020).

    Raises:
        ConfigError: none of position, share and bits or more than one of them, or a value out of range.
    """

    position: int | Sequence[int] | None = None
    share: float | Sequence[float] | None = None
    threshold: float | Sequence[float] = 0.0
    bits: int | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.position, self.share, self.bits)) != 1:
            raise ConfigError("a check has either a position or a share, or bits")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                object.__setattr__(self, field.name, _plain(field.name, value))
        if self.bits is not None and self.bits != BITS:
            raise ConfigError(f"sums are rounded to {BITS} bits, not {self.bits!r}")
        shares = [] if self.share is None else _as_list(self.share)
        if not all(0 < s <= 1 for s in shares):
            raise ConfigError(f"the share of a check lies in (0, 1], not {self.share!r}")

    def positions(self, full: int, terms: int, filters: int) -> list[int]:
        """Each filter's position, shape (filters,); 0 for a check of rounded sums, which comes before the first term.

        Args:
            full: n of the layer at full width.
            terms: n at the budget of the moment; positions move in proportion.
            filters: at full width.

        Raises:
            ConfigError: a position outside 1..n, or not one number for each filter.
        """
        if self.bits is not None:
            return [0] * filters
        if self.share is not None:
            # The tolerance puts 0.29 * 100, which is 28.999... in floating point, at 29.
            return [max(1, math.floor(terms * s + 1e-9)) for s in _spread("shares", self.share, filters)]
        assert self.position is not None
        given = _spread("positions", self.position, filters)
        outside = next((p for p in given if not 1 <= p <= full), None)
        if outside is not None:
            raise ConfigError(f"a filter of {full} terms is checked at a position in 1..{full}, not {int(outside)}")
        return [max(1, int(p) * terms // full) for p in given]

    def thresholds(self, filters: int) -> list[float]:
        """Each filter's threshold, shape (filters,); raises ConfigError if there is not one for each."""
        return _spread("thresholds", self.threshold, filters)

    def as_dict(self) -> dict[str, Any]:
        """The arguments, as JSON can hold them."""
        return {k: v for k, v in asdict(self).items() if v is not None}


def _plain(name: str, value: object) -> object:
    """The value itself, as a tuple if it is several."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    values = tuple(value) if isinstance(value, Sequence) and several else (value,)
    kinds = (int,) if name in ("position", "bits") else (int, float)
    if not values or not all(isinstance(v, kinds) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        kind = "whole" if name in ("position", "bits") else "finite"
        raise ConfigError(f"the {name} of a check is a {kind} number, or one for each filter, not {value!r}")
    return values if several else value


def _as_list(value: Numbers) -> list[float]:
    return list(value) if isinstance(value, Sequence) else [value]


def _spread(name: str, value: Numbers, filters: int) -> list[float]:
    """One number for each filter."""
    given = _as_list(value)
    if isinstance(value, Sequence) and len(given) != filters:
        raise ConfigError(f"a layer of {filters} filters has {filters} {name}, not {len(given)}")
    return given if isinstance(value, Sequence) else given * filters
