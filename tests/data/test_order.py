
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapernet.data import batches
from tapernet.errors import ConfigError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(n=st.integers(1, 100), size=st.integers(1, 120), least=st.integers(1, 4), seed=st.integers(0, 1000))
def test_each_image_once_in_batches_that_are_large_enough(n: int, size: int, least: int, seed: int) -> None:
    parts = batches(n, size, seeded(seed), least)
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert torch.equal(torch.cat(parts), torch.cat(batches(n, size, seeded(seed))))
    assert all(len(part) == size for part in parts[:-1])
    rest = n % size or size
    assert len(parts[-1]) == (rest if rest >= least or n <= size else size + rest)


@pytest.mark.parametrize(("n", "size"), [(0, 3), (3, 0)])
def test_sizes_below_one_are_refused(n: int, size: int) -> None:
    with pytest.raises(ConfigError):
        batches(n, size, seeded(0))


def test_the_generator_alone_decides() -> None:
    first = torch.cat(batches(100, 7, seeded(1)))
    torch.manual_seed(5)
    assert torch.equal(torch.cat(batches(100, 7, seeded(1))), first)
    assert not torch.equal(torch.cat(batches(100, 7, seeded(2))), first)


def test_epochs_of_one_generator_differ() -> None:
    generator = seeded(0)
    first, second = (torch.cat(batches(100, 10, generator)) for _ in range(2))
    assert not torch.equal(first, second)
