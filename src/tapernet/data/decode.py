"""From rows of the `datasets` library to tensors: which columns to read, and the images in them."""

import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tapernet.data.images import ImageData, Splits, channel_statistics
from tapernet.data.pictures import check_depth, plain
from tapernet.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
"""Tried in this order if no column is asked for: the names that MNIST and CIFAR have on the hub."""

MOST_CLASSES = 1_000_000
"""Far more than any network tells apart; a larger label is a number of another kind, such as that of an article."""

NO_LABEL = -1
"""How the library marks an image whose class is withheld; it is outside every range of labels."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


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
        raise DataError(f"{name}: which column is the {what}? None of {columns} is called {' or '.join(usual)}: "
                        f"rename it, or pass {what}= to load_data")  # fmt: skip
    return found


def _decode(part: Any, where: str, image: str, label: str) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W), uint8, and labels (N,), int64, of one split."""
    import datasets

    _check_types(part.features, where, image, label)
    rows = part.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    pixels: list[Pixels] = []
    labels: list[int] = []
    for i, row in enumerate(_readable(rows, where)):
        pixels.append(_pixels(row[image], f"{where}: image {i}"))
        if pixels[i].shape[:2] != pixels[0].shape[:2]:
            sizes = ["x".join(map(str, one.shape[:2])) for one in (pixels[i], pixels[0])]
            raise DataError(
                f"{where}: image {i} is {sizes[0]}, but those before it are {sizes[1]}; resize them all first"
            )
        labels.append(NO_LABEL if row[label] is None else row[label])
        if labels[i] >= MOST_CLASSES:
            raise DataError(f"{where}: image {i} has label {labels[i]}, but labels count classes from 0: "
                            f"{MOST_CLASSES - 1} is the largest; number them anew")  # fmt: skip
    if not pixels:
        raise DataError(f"{where}: an empty data set")
    return _stack(pixels), torch.tensor(labels, dtype=torch.int64)


def _check_types(features: Mapping[str, Any], where: str, image: str, label: str) -> None:
    import datasets

    found = features.get(image)
    # A parquet file written without the library's schema holds images as plain structs.
    if not isinstance(found, datasets.Image) and not (isinstance(found, dict) and "bytes" in found):
        raise DataError(f"{where}: column {image!r} does not hold images, but {found}")
    found = features.get(label)
    if not str(getattr(found, "dtype", "")).startswith(("int", "uint")):
        raise DataError(f"{where}: column {label!r} does not hold class labels or whole numbers, but {found}")


def _readable(rows: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """The rows, with an error in the files under them as a DataError."""
    try:
        yield from rows
    # A damaged file shows only when its rows are reached, as an error of the network, of Arrow, or of others.
    except Exception as error:
        raise DataError(f"{where} cannot be read: {type(error).__name__}: {error}") from error


def _pixels(encoded: Any, where: str) -> Pixels:
    """One decoded image, (H, W) if it is grey, else (H, W, 3)."""
    from PIL import Image

    if encoded is None:
        raise DataError(f"{where} is missing")
    try:
        with Image.open(io.BytesIO(encoded["bytes"]) if encoded.get("bytes") else encoded["path"]) as file:
            check_depth(file, where)
            return np.asarray(plain(file))
    except DataError:
        raise
    # What a damaged image raises depends on its format and on where the damage is.
    except Exception as error:
        raise DataError(f"{where} cannot be decoded: {type(error).__name__}: {error}") from error


def _stack(pixels: list[Pixels]) -> Tensor:
    """Images of one size as one tensor, (N, C, H, W); grey ones among colour ones become colour."""
    if all(one.ndim == 2 for one in pixels):
        return torch.from_numpy(np.stack(pixels)).unsqueeze(1)
    colour = [np.repeat(one[:, :, None], 3, axis=2) if one.ndim == 2 else one for one in pixels]
    return torch.from_numpy(np.stack(colour)).permute(0, 3, 1, 2).contiguous()
