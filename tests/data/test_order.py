import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapernet.data import batches
from tapernet.errors import ConfigError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(n=st.integers(1, 100), size=st.integers(1, 120), shuffle=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_an_epoch_visits_each_image_once(n: int, size: int, shuffle: bool, seed: int) -> None:
    parts = list(batches(n, size, seeded(seed), shuffle=shuffle))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    assert all(len(part) == size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= size


@given(n=st.integers(1, 100), size=st.integers(1, 100))
@settings(max_examples=30, deadline=None)
def test_drop_last_gives_full_batches_only(n: int, size: int) -> None:
    if size > n:
        with pytest.raises(ConfigError, match=f"batch_size {size}"):
            batches(n, size, seeded(0), drop_last=True)
    else:
        parts = list(batches(n, size, seeded(0), drop_last=True))
        assert [len(part) for part in parts] == [size] * (n // size)
        assert torch.cat(parts).unique().numel() == size * (n // size)


def test_without_shuffling_the_order_is_plain() -> None:
    assert torch.cat(list(batches(10, 3, None, shuffle=False))).tolist() == list(range(10))


def test_the_generator_alone_decides() -> None:
    first = torch.cat(list(batches(100, 7, seeded(1))))
    torch.manual_seed(5)
    assert torch.equal(torch.cat(list(batches(100, 7, seeded(1)))), first)
    assert not torch.equal(torch.cat(list(batches(100, 7, seeded(2)))), first)


def test_epochs_of_one_generator_differ() -> None:
    generator = seeded(0)
    first, second = (torch.cat(list(batches(100, 10, generator))) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("n", "size", "message"), [(0, 4, "not 0"), (4, 0, "batch_size"), (4, -2, "-2")])
def test_bad_sizes_are_named_at_once(n: int, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        batches(n, size, seeded(0))


def test_shuffling_needs_a_generator() -> None:
    with pytest.raises(ConfigError, match="generator"):
        batches(4, 2, None)
