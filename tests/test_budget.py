import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapernet.budget import check_budgets, kept_count, to_percent
from tapernet.errors import ConfigError


@pytest.mark.parametrize("percent", range(1, 101))
def test_every_whole_percent_is_understood(percent: int) -> None:
    assert to_percent(percent / 100) == percent


@pytest.mark.parametrize("bad", [0, -0.1, 1.5, 2, float("nan"), float("inf"), "half", None, True, 0.005, 0.125])
def test_a_bad_budget_is_refused_by_its_value(bad: object) -> None:
    with pytest.raises(ConfigError, match="a budget"):
        to_percent(bad)  # type: ignore[arg-type]


@given(st.integers(1, 3000), st.integers(1, 100))
def test_kept_count_rounds_the_share_half_up(size: int, percent: int) -> None:
    # The same in exact fractions: floor(size * percent / 100 + 1/2).
    from fractions import Fraction

    expected = max(1, math.floor(Fraction(size * percent, 100) + Fraction(1, 2)))
    assert kept_count(size, percent) == expected


@given(st.integers(1, 3000), st.integers(1, 99), st.integers(1, 32))
def test_kept_counts_grow_with_the_budget_and_end_at_the_size(size: int, percent: int, multiple: int) -> None:
    smaller, larger = kept_count(size, percent, multiple), kept_count(size, percent + 1, multiple)
    assert 1 <= smaller <= larger <= size
    assert kept_count(size, 100, multiple) == size


@given(st.integers(1, 3000), st.integers(1, 100), st.sampled_from([8, 16]))
def test_rounding_up_gives_a_multiple_or_the_whole(size: int, percent: int, multiple: int) -> None:
    count = kept_count(size, percent, multiple)
    assert count == size or count % multiple == 0
    assert 0 <= count - kept_count(size, percent) < multiple


def test_a_list_of_budgets_is_checked() -> None:
    assert check_budgets([1.0, 0.5]) == (1.0, 0.5)
    with pytest.raises(ConfigError, match="at least one"):
        check_budgets([])
    with pytest.raises(ConfigError, match="twice"):
        check_budgets([0.5, 0.5])


@pytest.mark.parametrize("bad", [0.5, None, "1.0"])
def test_what_is_not_several_budgets_is_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="several numbers"):
        check_budgets(bad)  # type: ignore[arg-type]
