"""Channel groups and layouts against lists of positions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapernet.errors import ConfigError
from tapernet.nn.group import ChannelGroup, Layout, Span


def group(size: int, percent: int = 100, profile: str = "linear") -> ChannelGroup:
    made = ChannelGroup("g", size, [profile])
    made.set_percent(percent)
    return made


spans = st.lists(
    st.tuples(st.integers(1, 8), st.integers(1, 100), st.integers(1, 4), st.booleans()), min_size=1, max_size=3
)


@given(spans)
def test_a_layout_selects_the_kept_features_in_order(drawn: list[tuple[int, int, int, bool]]) -> None:
    layout = Layout(tuple(Span(n, group(n, p) if cut else None, repeat) for n, p, repeat, cut in drawn))
    positions, gammas, start = [], [], 0
    for n, p, repeat, cut in drawn:
        kept = max(1, (n * p + 50) // 100) if cut else n
        positions += range(start, start + kept * repeat)
        gammas += [1 - i / n if cut else 1.0 for i in range(kept) for _ in range(repeat)]
        start += n * repeat
    assert (layout.full, layout.kept) == (start, len(positions))
    features = torch.arange(start)
    assert layout.select(features, 0).tolist() == positions
    assert layout.select(features.expand(2, start), 1)[0].tolist() == positions
    assert features[layout.index()].tolist() == positions
    profile = layout.profile()
    expected = torch.tensor(gammas)
    assert profile is not None or (expected == 1).all()
    torch.testing.assert_close(expected if profile is None else profile, expected)


def test_a_prefix_is_a_view_and_so_is_the_whole() -> None:
    weight = torch.zeros(6, 2)
    one, two = group(6, 50), group(3)
    assert Layout((Span(6, one),)).select(weight, 0).data_ptr() == weight.data_ptr()
    assert Layout((Span(3, two), Span(3, two))).select(weight, 0) is weight


def test_each_range_of_budgets_has_its_profile() -> None:
    made = ChannelGroup("g", 4, ["all-one", "linear"], [50, 100])
    found = {}
    for percent in (25, 50, 51, 100):
        made.set_percent(percent)
        found[percent] = made.profile().tolist()
    assert found == {25: [1], 50: [1, 1], 51: [1, 0.75], 100: [1, 0.75, 0.5, 0.25]}


def test_the_trainable_profile_is_a_parameter_that_starts_at_one() -> None:
    made = group(5, 40, "trainable")
    assert made.profile().tolist() == [1, 1]
    made.profile().sum().backward()
    assert made.gamma.grad.tolist() == [1, 1, 0, 0, 0]


def test_bad_profile() -> None:
    with pytest.raises(ConfigError, match="unknown profile"):
        group(3, profile="cubic")
