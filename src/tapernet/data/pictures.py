"""Pictures from files, in the shape that a network takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tapernet.errors import DataError

MODES = {1: "L", 3: "RGB"}
GREY = ("1", "L", "LA", "La")


def check_depth(picture: Any, where: str) -> None:
    """Raises DataError for a Pillow picture with more than 8 bits a channel; asked before its pixels are loaded.

    Of colours in 16 bits Pillow would read the upper bytes alone, which are nearly black where 12 of them are used.
    """
    if picture.mode.startswith(("I", "F")) or any("16" in str(tile[-1]) for tile in picture.tile):
        raise DataError(f"{where} has more than 8 bits a channel (mode {picture.mode}): convert it to 8 bits first")


def plain(picture: Any) -> Any:
    """A Pillow picture in grey (mode L) or colour (mode RGB), 8 bits a channel.

    A palette of greys alone is grey. Transparent parts lie on white, as viewers show them; the colours under them that
    a file may hold are not seen.
    """
    from PIL import Image

    grey = picture.mode in GREY or (picture.mode in ("P", "PA") and _is_grey(picture))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture.convert("L" if grey else "RGB")


def _is_grey(picture: Any) -> bool:
    """Whether the colours of a palette that the picture uses are greys."""
    palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    used = palette[np.unique(np.array(picture.getchannel("P") if picture.mode == "PA" else picture))]
    return bool((used == used[:, :1]).all())


def read_pictures(paths: Sequence[str | Path], shape: Sequence[int]) -> Tensor:
    """Pictures of any size, scaled until they cover the shape and cropped at the centre; uint8, (n, channels, H, W).

    Args:
        paths: files of any format that Pillow reads.
        shape: channels (1 for grey, 3 for colour), height and width.

    Raises:
        DataError: no path; a file that is missing or is not a picture, or pictures with more than 8 bits a channel; a
            number of channels for which pictures have no form.
    """
    channels, *size = shape
    if channels not in MODES:
        raise DataError(f"pictures have 1 or 3 channels, but the network takes {channels}")
    if not paths:
        raise DataError("no picture to read")
    return torch.stack([_read(Path(path), MODES[channels], (size[0], size[1])) for path in paths])


def _read(path: Path, mode: str, size: tuple[int, int]) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            check_depth(file, str(path))
            # A photograph may be stored on its side, with a note which way is up.
            picture = plain(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise DataError(f"no such picture: {path}") from error
    except DataError:
        raise
    # What a damaged picture raises depends on its format and on where the damage is.
    except Exception as error:
        raise DataError(f"{path} cannot be read as a picture: {type(error).__name__}: {error}") from error
    height, width = size
    fitted = ImageOps.fit(picture.convert(mode), (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(fitted))
    return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)
