import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapernet.errors import ConfigError
from tapernet.profile import PROFILE_ORDERS, PROFILES, coefficients, profile_names


@pytest.mark.parametrize("name", list(PROFILES))
@given(n=st.integers(2, 300))
def test_every_profile_starts_at_one_and_never_rises(name: str, n: int) -> None:
    gamma = coefficients(name, n)
    assert gamma.shape == (n,)
    assert gamma[0] == 1
    assert bool((gamma.diff() <= 0).all())
    assert bool((gamma >= 0).all())


def test_the_formulas_of_the_paper() -> None:
    assert coefficients("linear", 4).tolist() == [1, 0.75, 0.5, 0.25]
    torch.testing.assert_close(coefficients("harmonic", 3), torch.tensor([1, 1 / 2, 1 / 3]))
    torch.testing.assert_close(coefficients("half-exponential", 4), torch.tensor([1, 1, math.exp(-1), math.exp(-2)]))
    assert coefficients("all-one", 3).tolist() == [1, 1, 1]


def test_a_sequence_of_the_user_is_taken_as_it_is() -> None:
    assert coefficients([3, 2, 2, 0], 4).tolist() == [3, 2, 2, 0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1, 0.5, 0.6], "coefficient 2 is 0.5 and the next 0.6"),
        ([1, 0.5], "3 coefficients, not 2"),
        ([1, 0, -1], "not negative"),
        ([float("nan"), 0, 0], "finite"),
        ([float("inf"), 0, 0], "finite"),
    ],
)
def test_a_bad_sequence_is_refused(bad: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        coefficients(bad, 3)


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'linear'") as error:
        coefficients("linaer", 3)
    assert all(name in str(error.value) for name in profile_names())


@settings(deadline=None)  # the first example imports scikit-learn
@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=30))
def test_an_order_gives_non_increasing_coefficients_and_leaves_those_that_are(values: list[float]) -> None:
    gamma = torch.tensor(values)
    for name in PROFILE_ORDERS:
        ordered = PROFILE_ORDERS[name](gamma)
        assert bool((ordered.diff() <= 1e-6).all())
        torch.testing.assert_close(PROFILE_ORDERS[name](ordered), ordered)


@settings(deadline=None)
@given(st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=6))
def test_isotonic_is_the_nearest_of_all_non_increasing_sequences(values: list[float]) -> None:
    gamma = torch.tensor(values, dtype=torch.float64)
    nearest = PROFILE_ORDERS["isotonic"](gamma)
    # The solution is made of runs that share their mean; try every way to cut into runs (brute force).
    n, best = len(values), float("inf")
    for cuts in itertools.product([False, True], repeat=n - 1):
        bounds = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), n]
        tried = torch.cat([gamma[a:b].mean().expand(b - a) for a, b in itertools.pairwise(bounds)])
        if bool((tried.diff() <= 1e-9).all()):
            best = min(best, float((tried - gamma).square().sum()))
    assert float((nearest - gamma).square().sum()) == pytest.approx(best, abs=1e-6)


def test_the_cumulative_minimum_is_the_papers() -> None:
    assert PROFILE_ORDERS["cumulative-minimum"](torch.tensor([1.0, 0.5, 0.75, 0.25])).tolist() == [1, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    "values",
    [[1.0, float("nan"), 0.5], [1.0, -0.1, -0.2], [0.5, 0.7, 0.7], [0.0, 0.0, 0.0], [1.0, 0.5], [1.0, None, 0.5]],
)
def test_a_registered_profile_is_checked_as_numbers_are(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROFILES, "_entries", {**PROFILES._entries, "mine": lambda n: values})
    with pytest.raises(ConfigError, match="profile"):
        coefficients("mine", 3)
    with pytest.raises(ConfigError, match="profile"):
        coefficients(values, 3)
