"""Budgets: which share of a layer's channels is computed.

A budget b in (0, 1] keeps the first ``max(1, (N * percent + 50) // 100)`` of N channels, where percent = 100 b is a
whole number: the "x% DP" of the TESLA paper (section 2.1). Whole percents make the count exact; flooring a float
product does not (0.29 * 100 is 28.999...).
"""

import math
from collections.abc import Iterable
from typing import Any

from tapernet.errors import ConfigError

TEN_BUDGETS = tuple(p / 100 for p in range(10, 101, 10))
"""10%, 20%, ..., 100%: the points of the paper's curves."""


def to_percent(budget: float) -> int:
    """The whole percent of a budget.

    Args:
        budget: a share in (0, 1] that is a whole number of percent.

    Raises:
        ConfigError: not a number, NaN, out of (0, 1], or not a whole percent.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise ConfigError(f"a budget is a number in (0, 1], not {budget!r}")
    if not (math.isfinite(budget) and 0 < budget <= 1):
        raise ConfigError(f"a budget lies in (0, 1], not {budget!r}")
    percent = round(budget * 100)
    if percent < 1 or abs(budget * 100 - percent) > 1e-6:
        raise ConfigError(f"a budget is a whole number of percent (0.01, 0.02, ..., 1.0), not {budget!r}")
    return percent


def shown(budget: float | str) -> str:
    """A budget as tables and plots show it: whole percents, or its name."""
    return budget if isinstance(budget, str) else f"{budget:.0%}"


def kept_count(size: int, percent: int, multiple: int = 1) -> int:
    """How many of `size` channels a whole percent keeps: half up, at least one.

    Args:
        size: channels of the full layer.
        percent: 1 to 100.
        multiple: round the count up to a multiple of this (8 or 16 suit wide vector units), never above `size`.
    """
    count = max(1, (size * percent + 50) // 100)
    return min(size, -(-count // multiple) * multiple)


def several(budgets: object) -> tuple[Any, ...]:
    """The budgets as a tuple, each unchecked; raises ConfigError for anything but several."""
    try:
        if not isinstance(budgets, (str, bytes)):
            return tuple(budgets)  # type: ignore[arg-type]
    except TypeError:  # also of a tensor without dimensions, which calls itself iterable
        pass
    raise ConfigError(f"budgets are several numbers in (0, 1], as in (1.0, 0.5), not {budgets!r}")


def check_budgets(budgets: Iterable[float], *, distinct: bool = True) -> tuple[float, ...]:
    """The budgets as a tuple, each checked; raises ConfigError if there is none, or one stands twice."""
    checked = tuple(to_percent(b) / 100 for b in several(budgets))
    if not checked:
        raise ConfigError("budgets: at least one budget is needed")
    if distinct and len(set(checked)) < len(checked):
        raise ConfigError(f"a budget stands twice in {checked}")
    return checked
