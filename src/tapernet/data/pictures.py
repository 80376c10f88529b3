"""Pictures from files, in the shape that a network takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tapernet.errors import DataError

MODES = {1: "L", 3: "RGB"}


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
            # A photograph may be stored on its side, with a note which way is up.
            picture = ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise DataError(f"no such picture: {path}") from error
    # What a damaged picture raises depends on its format and on where the damage is.
    except Exception as error:
        raise DataError(f"{path} cannot be read as a picture: {type(error).__name__}: {error}") from error
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"{path} has more than 8 bits a channel (mode {picture.mode}): convert it to 8 bits first")
    height, width = size
    fitted = ImageOps.fit(picture.convert(mode), (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(fitted))
    return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)
