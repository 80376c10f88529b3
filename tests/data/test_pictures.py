import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tapernet.data.pictures import plain, read_pictures
from tapernet.errors import DataError


def picture(folder: Path, name: str, pixels: np.ndarray, **options: object) -> Path:  # type: ignore[type-arg]
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


@pytest.fixture
def noise() -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_a_picture_of_the_size_is_read_as_it_is(tmp_path: Path, noise: np.ndarray) -> None:  # type: ignore[type-arg]
    found = read_pictures([picture(tmp_path, "a.png", noise)], (3, 6, 8))
    assert found.dtype == torch.uint8
    assert torch.equal(found[0], torch.from_numpy(noise).permute(2, 0, 1))


def test_a_wide_picture_is_cropped_at_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    found = read_pictures([picture(tmp_path, "a.png", pixels)], (3, 10, 10))
    assert bool((found == 200).all())


def test_a_large_picture_is_scaled_down(tmp_path: Path) -> None:
    pixels = np.full((64, 40, 3), 77, np.uint8)
    found = read_pictures([picture(tmp_path, "a.png", pixels), picture(tmp_path, "b.bmp", pixels)], (3, 16, 16))
    assert found.shape == (2, 3, 16, 16)
    assert bool((found == 77).all())


def test_colour_becomes_grey_and_grey_becomes_colour(tmp_path: Path, noise: np.ndarray) -> None:  # type: ignore[type-arg]
    colour, grey = picture(tmp_path, "c.png", noise), picture(tmp_path, "g.png", noise[..., 0])
    expected = np.asarray(Image.fromarray(noise).convert("L"))
    assert torch.equal(read_pictures([colour], (1, 6, 8))[0, 0], torch.from_numpy(expected.copy()))
    assert torch.equal(read_pictures([grey], (3, 6, 8))[0], torch.from_numpy(noise[..., 0]).expand(3, -1, -1))


def test_a_photograph_on_its_side_is_turned(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = 255  # a white top row
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: the top becomes the right side
    found = read_pictures([picture(tmp_path, "a.png", pixels, exif=exif)], (1, 4, 4))[0, 0]
    assert found.tolist() == [[0, 0, 0, 255]] * 4


def test_what_is_no_picture_is_refused(tmp_path: Path, noise: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match=r"no such picture: .*nothing\.png"):
        read_pictures([tmp_path / "nothing.png"], (3, 4, 4))
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.png cannot be read as a picture"):
        read_pictures([tmp_path / "text.png"], (3, 4, 4))
    whole = picture(tmp_path, "a.png", noise)
    whole.write_bytes(whole.read_bytes()[:60])
    with pytest.raises(DataError, match=r"a\.png cannot be read as a picture"):
        read_pictures([whole], (3, 4, 4))
    with pytest.raises(DataError, match="cannot be read as a picture"):
        read_pictures([tmp_path], (3, 4, 4))


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    deep = picture(tmp_path, "a.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match="more than 8 bits"):
        read_pictures([deep], (1, 4, 4))


def test_no_picture_and_channels_without_a_form_are_refused() -> None:
    with pytest.raises(DataError, match="no picture to read"):
        read_pictures([], (3, 4, 4))
    with pytest.raises(DataError, match="1 or 3 channels, but the network takes 2"):
        read_pictures(["a.png"], (2, 4, 4))


def test_one_rule_for_all_modes() -> None:
    """Palettes of greys are grey, transparent parts lie on white, and hidden colours are not seen."""
    noise = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    for grey in (noise, noise.convert("P"), noise.convert("LA"), noise.convert("1")):
        assert plain(grey).mode == "L"
    assert np.array_equal(np.asarray(plain(noise.convert("P"))), np.asarray(noise))
    colour = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    assert plain(colour.quantize(16)).mode == "RGB"
    hidden = np.zeros((8, 8, 4), np.uint8)
    hidden[..., 0] = 255
    hidden[2:6, 2:6] = (0, 0, 255, 255)
    found = np.asarray(plain(Image.fromarray(hidden)))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[3, 3].tolist() == [0, 0, 255]


def test_sixteen_bits_of_colour_are_refused(tmp_path: Path) -> None:
    """Pillow would read the upper bytes alone."""
    rows = b"".join(b"\0" + np.full((8, 3), 4095, ">u2").tobytes() for _ in range(8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        read_pictures([path], (3, 8, 8))
