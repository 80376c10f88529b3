import numpy as np
import pytest
import torch
from torch import Tensor

from tapernet.data import AUGMENTATIONS, augment
from tapernet.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(n: int = 64, channels: int = 3, height: int = 14, width: int = 28) -> Tensor:
    """Images in which no two pixels are the same, and none is zero."""
    return torch.arange(1.0, n * channels * height * width + 1).view(n, channels, height, width)


def moves(before: Tensor, down: int, across: int, fill: list[float]) -> list[np.ndarray]:
    """One image moved by every distance that is allowed, by numpy."""
    padded = [
        np.pad(channel, ((down, down), (across, across)), constant_values=value)
        for channel, value in zip(before.numpy(), fill, strict=True)
    ]
    height, width = before.shape[1:]
    corners = [(y, x) for y in range(2 * down + 1) for x in range(2 * across + 1)]
    return [np.stack([c[y : y + height, x : x + width] for c in padded]) for y, x in corners]


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
class TestEveryAugmentation:
    @pytest.mark.parametrize("shape", [(5, 1, 8, 8), (3, 3, 7, 12), (1, 1, 1, 1)])
    def test_keeps_shape_and_type(self, name: str, shape: tuple[int, ...]) -> None:
        batch = torch.randn(shape, generator=seeded())
        after = AUGMENTATIONS[name](batch, seeded())
        assert (after.shape, after.dtype) == (batch.shape, batch.dtype)

    def test_leaves_the_batch_as_it_was(self, name: str) -> None:
        batch = some()
        AUGMENTATIONS[name](batch, seeded())
        assert torch.equal(batch, some())

    def test_the_generator_alone_decides(self, name: str) -> None:
        first = AUGMENTATIONS[name](some(), seeded(1))
        state = torch.get_rng_state()
        assert torch.equal(AUGMENTATIONS[name](some(), seeded(1)), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(AUGMENTATIONS[name](some(), seeded(2)), first)

    def test_images_differ_from_each_other(self, name: str) -> None:
        image = some(n=1)
        after = AUGMENTATIONS[name](image.expand(64, -1, -1, -1), seeded())
        assert len(after.unique(dim=0)) > 1

    def test_channels_change_together(self, name: str) -> None:
        batch = some(channels=1).expand(-1, 3, -1, -1)
        after = AUGMENTATIONS[name](batch, seeded())
        assert torch.equal(after[:, 0], after[:, 1])
        assert torch.equal(after[:, 0], after[:, 2])


def test_flip_mirrors_about_half() -> None:
    batch = some(n=400, height=2, width=3)
    mirrored = [
        np.array_equal(after, before[:, :, ::-1])
        for after, before in zip(_run("flip", batch), batch.numpy(), strict=True)
    ]
    kept = [np.array_equal(after, before) for after, before in zip(_run("flip", batch), batch.numpy(), strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 140 < sum(mirrored) < 260


@pytest.mark.parametrize(("name", "down", "across"), [("crop", 4, 4), ("shift", 1, 2)])
def test_moved_images_are_windows_of_the_padded_ones(name: str, down: int, across: int) -> None:
    batch = some(n=500, channels=2)
    fill = [-1.5, 2.5]
    seen = set()
    for before, after in zip(batch, _run(name, batch, torch.tensor(fill)), strict=True):
        found = [i for i, moved in enumerate(moves(before, down, across, fill)) if np.array_equal(moved, after)]
        assert len(found) == 1
        seen.add(found[0])
    # 500 draws from at most 81 places: nearly all are met, the four corners of the range too in this seed's draw.
    assert len(seen) > 0.9 * (2 * down + 1) * (2 * across + 1)


@pytest.mark.parametrize("name", ["crop", "shift"])
def test_outside_is_zero_unless_told(name: str) -> None:
    ones = np.ones((64, 1, 8, 8), dtype=np.float32)
    assert set(np.unique(_run(name, torch.from_numpy(ones)))) == {0.0, 1.0}


@pytest.mark.parametrize("side", [8, 9])
def test_shift_moves_small_images_by_one(side: int) -> None:
    spot = torch.zeros(200, 1, side, side)
    spot[:, :, 4, 4] = 1
    places = torch.from_numpy(_run("shift", spot)).nonzero()[:, 2:]
    assert {tuple(place) for place in places.tolist()} == {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}


def test_cutout_blanks_one_square_cut_at_the_edges() -> None:
    batch = some(n=300, height=8, width=8)
    areas = set()
    for before, after in zip(batch.numpy(), _run("cutout", batch), strict=True):
        blank = after == 0
        assert np.array_equal(after[~blank], before[~blank])
        assert (blank == blank[0]).all()
        rows, columns = np.flatnonzero(blank[0].any(1)), np.flatnonzero(blank[0].any(0))
        for where in (rows, columns):
            assert np.array_equal(where, np.arange(where[0], where[-1] + 1))
            assert 2 <= len(where) <= 4
            assert len(where) == 4 or where[0] == 0 or where[-1] == 7
        assert blank[0].sum() == len(rows) * len(columns)
        areas.add(len(rows) * len(columns))
    assert {16, 12} <= areas


def test_dropout_blanks_a_fifth_of_the_pixels_and_keeps_the_mean() -> None:
    batch, fill = some(n=500, channels=2, height=8, width=8), torch.tensor([-1.5, 2.5])
    black = fill.view(1, 2, 1, 1).numpy()
    after = _run("dropout", batch, fill)
    blank = (after == black).all(1, keepdims=True)
    assert 0.19 < blank.mean() < 0.21
    kept = np.broadcast_to(~blank, after.shape)
    np.testing.assert_allclose((0.8 * (after - black))[kept], (batch.numpy() - black)[kept], rtol=1e-4, atol=1e-5)
    assert ((after == black) <= blank).all()  # a pixel's channels go together


def test_names_are_applied_in_order() -> None:
    generator = seeded(3)
    expected = AUGMENTATIONS["crop"](AUGMENTATIONS["flip"](some(), generator), generator)
    assert torch.equal(augment(some(), ["flip", "crop"], seeded(3)), expected)
    assert not torch.equal(augment(some(), ["crop", "flip"], seeded(3)), expected)


def test_no_names_change_nothing() -> None:
    assert torch.equal(augment(some(), (), seeded()), some())


def test_fill_reaches_the_augmentation() -> None:
    after = augment(torch.ones(64, 1, 8, 8), ["crop"], seeded(), fill=-3.0)
    assert set(after.unique().tolist()) == {-3.0, 1.0}


def test_an_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'flip'.*valid: crop, cutout, dropout, flip, shift"):
        augment(some(), ["crop", "filp"], seeded())


def _run(name: str, batch: Tensor, fill: Tensor | float = 0.0) -> np.ndarray:
    return AUGMENTATIONS[name](batch, seeded(), fill).numpy()
