"""From rows of the `datasets` library to tensors: which columns to read, and the images in them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tapernet.data.images import ImageData, Splits, channel_statistics
from tapernet.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
"""Tried in this order if no column is asked for: the names that MNIST and CIFAR have on the hub."""


def decode_splits(parts: Mapping[str, Any], name: str, image: str | None, label: str | None) -> Splits:
    """Train and test as tensors, both with the mean and std of train.

    Args:
        parts: data sets of the `datasets` library by split name, map-style or streamed.
        name: of the data set, for messages too.
        image: the column of images, or None to find it.
        label: the column of labels, or None to find it.

    Raises:
        DataError: no train or test split, a column that is not there or of the wrong type, an image that cannot be
            decoded or is of another size than the first, a label without a class.
    """
    missing = [part for part in ("train", "test") if part not in parts]
    if missing:
        found = ", ".join(sorted(map(str, parts))) or "none"
        raise DataError(f"{name}: no {' and no '.join(missing)} split; splits found: {found}")
    features = parts["train"].features
    image = _column(name, "image", image, features, IMAGE_COLUMNS)
    label = _column(name, "label", label, features, LABEL_COLUMNS)
    decoded = {part: _decode(parts[part], f"{name}: {part}", image, label) for part in ("train", "test")}
    names = getattr(features[label], "names", None) or map(str, range(int(decoded["train"][1].max()) + 1))
    class_names = tuple(names)
    mean, std = channel_statistics(decoded["train"][0])
    data = {}
    for part, (images, labels) in decoded.items():
        try:
            data[part] = ImageData(images, labels, class_names, mean, std)
        except DataError as error:
            raise DataError(f"{name}: {part}: {error}") from error
    return Splits(**data, name=name)


def _column(name: str, what: str, asked: str | None, features: Mapping[str, Any], usual: Iterable[str]) -> str:
    """The column asked for, or the first of the usual ones that is there."""
    columns = ", ".join(features)
    if asked is not None:
        if asked not in features:
            raise DataError(f"{name}: no column {asked!r} for the {what}; columns: {columns}")
        return asked
    found = next((column for column in usual if column in features), None)
    if found is None:
        raise DataError(f"{name}: which column is the {what}? Pass {what}=, one of: {columns}")
    return found


def _decode(part: Any, where: str, image: str, label: str) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W), uint8, and labels (N,), int64, of one split."""
    import datasets

    undecoded = datasets.Image(decode=False)
    feature, target = part.features.get(image), part.features.get(label)
    # A parquet file written without the library's schema has the same columns as plain structs.
    if not isinstance(feature, datasets.Image) and not (isinstance(feature, dict) and "bytes" in feature):
        raise DataError(f"{where}: column {image!r} does not hold images, but {feature}")
    if not isinstance(target, datasets.ClassLabel) and not str(getattr(target, "dtype", "")).startswith(
        ("int", "uint")
    ):
        raise DataError(f"{where}: column {label!r} does not hold class labels or whole numbers, but {target}")
    rows = part.select_columns([image, label]).cast_column(image, undecoded)
    pixels, labels = [], []
    for i, row in enumerate(rows):
        pixels.append(_pixels(row[image], f"{where}: image {i}"))
        labels.append(-1 if row[label] is None else row[label])
    if not pixels:
        raise DataError(f"{where}: an empty split")
    return _stack(pixels, where), torch.tensor(labels, dtype=torch.int64)


def _pixels(encoded: Any, where: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One decoded image, (H, W) if it is grey, else (H, W, 3)."""
    import datasets

    if encoded is None:
        raise DataError(f"{where} is missing")
    try:
        picture = datasets.Image().decode_example(encoded)
        if picture.mode.startswith(("I", "F")):
            raise DataError(f"{where} has more than 8 bits a channel (mode {picture.mode}), which is not supported")
        return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} cannot be decoded: {error}") from error


def _stack(pixels: list[np.ndarray[Any, np.dtype[np.uint8]]], where: str) -> Tensor:
    """Images of one size as one tensor, (N, C, H, W); grey ones among colour ones become colour."""
    size = pixels[0].shape[:2]
    odd = next((i for i, one in enumerate(pixels) if one.shape[:2] != size), None)
    if odd is not None:
        height, width = pixels[odd].shape[:2]
        raise DataError(
            f"{where}: image {odd} is {height}x{width}, but those before it are {size[0]}x{size[1]}; "
            f"resize them to one size first"
        )
    if all(one.ndim == 2 for one in pixels):
        return torch.from_numpy(np.stack(pixels)).unsqueeze(1)
    colour = [np.repeat(one[:, :, None], 3, axis=2) if one.ndim == 2 else one for one in pixels]
    return torch.from_numpy(np.stack(colour)).permute(0, 3, 1, 2).contiguous()
