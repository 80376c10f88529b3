from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapernet.data import ImageData, Splits
from tapernet.data.images import channel_statistics
from tapernet.errors import ConfigError, DataError

NAMES = ("cat", "dog", "emu")


def some(n: int = 6, channels: int = 2, **more: Any) -> ImageData:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, channels, 5, 4), dtype=torch.uint8, generator=draw)
    return ImageData(images, torch.arange(n) % 3, NAMES, **more)


def numbered(n: int) -> ImageData:
    """Images that carry their own number."""
    return ImageData(torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1), torch.zeros(n).long(), NAMES)


def numbers(data: ImageData) -> list[int]:
    return data.images.flatten().int().tolist()


def test_size_shape_and_classes() -> None:
    data = some()
    assert (len(data), data.shape, data.classes) == (6, (2, 5, 4), 3)
    assert "6 images" in repr(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(0, 1, 2, 2), "labels": torch.zeros(0).long()}, "empty"),
        ({"images": torch.zeros(2, 0, 2, 2)}, "empty"),
        ({"images": torch.zeros(2, 2, 2)}, r"\(2, 2, 2\)"),
        ({"images": torch.zeros(2, 1, 2, 2, dtype=torch.int32)}, "int32"),
        ({"images": torch.tensor([0.0, torch.nan]).view(2, 1, 1, 1)}, "image 1 .* not finite"),
        ({"images": torch.zeros(3, 1, 2, 2)}, "3 images, but 2 labels"),
        ({"labels": torch.zeros(2)}, "float32"),
        ({"labels": torch.zeros(2, 1).long()}, r"\(2, 1\)"),
        ({"labels": torch.tensor([0, 3])}, r"label 3 of image 1 is not in \[0, 3\)"),
        ({"labels": torch.tensor([-1, 0])}, "label -1 of image 0"),
        ({"mean": (0.1, 0.2)}, "mean .* 1 channels, not 2"),
        ({"mean": (float("nan"),)}, "mean is finite"),
        ({"std": (1.0, 1.0)}, "std .* 1 channels, not 2"),
        ({"std": (0.0,)}, "std is positive"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    good = {"images": torch.zeros(2, 1, 2, 2), "labels": torch.zeros(2).long(), "class_names": NAMES}
    ImageData(**good)
    with pytest.raises(DataError, match=message):
        ImageData(**(good | change))


def test_as_float_standardises_uint8() -> None:
    data = some(mean=(0.2, 0.4), std=(0.5, 0.25))
    expected = data.images.numpy() / 255.0
    expected = (expected - np.array([0.2, 0.4])[:, None, None]) / np.array([0.5, 0.25])[:, None, None]
    assert data.as_float().dtype == torch.float32
    np.testing.assert_allclose(data.as_float().numpy(), expected, atol=1e-6)


def test_as_float_does_not_rescale_floats() -> None:
    images = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    before = images.clone()
    data = ImageData(images, torch.zeros(2).long(), NAMES, (0.5,), (2.0,))
    torch.testing.assert_close(data.as_float(), ((before - 0.5) / 2).float())
    assert torch.equal(images, before)


def test_as_float_leaves_float32_images_as_they_were() -> None:
    images = torch.rand(2, 1, 3, 3)
    before = images.clone()
    ImageData(images, torch.zeros(2).long(), NAMES, (0.5,)).as_float()
    assert torch.equal(images, before)


def test_as_float_is_computed_once() -> None:
    data = some()
    assert data.as_float() is data.as_float()


def test_one_number_stands_for_every_channel() -> None:
    data = some(mean=(0.5,), std=(0.1,))
    assert (data.mean, data.std) == ((0.5, 0.5), (0.1, 0.1))


def test_black_is_what_zero_becomes() -> None:
    data = ImageData(torch.zeros(1, 2, 1, 1, dtype=torch.uint8), torch.tensor([0]), NAMES, (0.2, 0.4), (0.5, 0.25))
    torch.testing.assert_close(data.black, data.as_float().flatten())


def test_statistics_agree_with_numpy() -> None:
    images = some(n=50).images
    mean, std = channel_statistics(images)
    scaled = images.numpy() / 255.0
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-9)


def test_a_channel_that_never_changes_is_divided_by_one() -> None:
    mean, std = channel_statistics(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)


@given(n=st.integers(2, 60), share=st.floats(0.02, 0.98), seed=st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_split_is_a_partition(n: int, share: float, seed: int) -> None:
    data = numbered(n)
    count = min(max(1, round(share * n)), n - 1)
    train, val = data.split(count, seed)
    assert len(val) == count
    assert sorted(numbers(train) + numbers(val)) == list(range(n))
    assert numbers(data.split(count, seed)[1]) == numbers(val)


def test_split_by_share_counts_a_share() -> None:
    train, val = numbered(50).split(0.1, seed=0)
    assert (len(train), len(val)) == (45, 5)


def test_split_depends_on_the_seed_only() -> None:
    data = numbered(100)
    first = numbers(data.split(30, seed=1)[1])
    torch.manual_seed(7)
    assert numbers(data.split(30, seed=1)[1]) == first
    assert numbers(data.split(30, seed=2)[1]) != first


def test_split_keeps_labels_with_their_images() -> None:
    data = some(n=30)
    for part in data.split(0.5, seed=3):
        for image, label in zip(part.images, part.labels, strict=True):
            assert label == data.labels[(data.images == image).flatten(1).all(1)]


@pytest.mark.parametrize("size", [0, 0.0, 10, 1.0, -1, -0.5, 1.5, 0.01, 0.99, 11, True, float("nan"), float("inf")])
def test_a_split_that_leaves_nothing_is_refused(size: float) -> None:
    with pytest.raises(ConfigError, match="validation"):
        numbered(10).split(size, seed=0)


def test_take_keeps_order_and_the_rest() -> None:
    data = some(mean=(0.5,), std=(0.1,))
    part = data.take([3, 0, 3])
    assert torch.equal(part.images, data.images[torch.tensor([3, 0, 3])])
    assert torch.equal(part.labels, data.labels[torch.tensor([3, 0, 3])])
    assert (part.class_names, part.mean, part.std) == (data.class_names, data.mean, data.std)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "empty"),
        ([0, 6], "index 6 "),
        ([-1], "index -1 "),
        ([0.5], "float32"),
        ([True, False], "bool"),
        (2, "shape"),
    ],
)
def test_take_names_a_bad_index(indices: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        some().take(indices)


def test_splits_have_one_shape() -> None:
    with pytest.raises(DataError, match=r"pair: train images are .*test images"):
        Splits(some(channels=1), some(channels=3), "pair")


def test_splits_have_the_same_classes() -> None:
    other = ImageData(some().images, some().labels, ("a", "b", "c"))
    with pytest.raises(DataError, match="different classes"):
        Splits(some(), other, "pair")
