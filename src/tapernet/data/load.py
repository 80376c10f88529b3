"""The one door to data: digits, a folder of parquet files, or a data set of the Hugging Face hub."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tapernet.data.cache import decoded_once
from tapernet.data.decode import decode_splits
from tapernet.data.hub import open_hub
from tapernet.data.images import ImageData, Splits, channel_statistics
from tapernet.errors import DataError
from tapernet.registry import unknown

DIGITS = "digits"


def load_data(source: str | Path = DIGITS, *, image: str | None = None, label: str | None = None) -> Splits:
    """Train and test images, uint8, with the mean and std of the train images in both.

    Folders and hub data sets are decoded once and then read from a cache (see `tapernet.data.cache`).

    Args:
        source: one of
            - "digits": scikit-learn's 8x8 grey digits, 1,437 for training and 360 for testing, always there;
            - a folder with train-*.parquet and test-*.parquet as Hugging Face writes them: a column of encoded images
              and one of class labels;
            - a hub id, "owner/name", such as "ylecun/mnist". An existing folder of that name comes first.
        image: the column of images; by default "image" or "img".
        label: the column of labels; by default "label", "labels" or "fine_label".

    Raises:
        DataError: an unknown source, a split or column that is missing, images that differ in size or cannot be
            decoded, labels without a class, or a hub that cannot be reached (found out in about two seconds).
    """
    if source == DIGITS:
        if image or label:
            raise DataError(f"{DIGITS!r} has no columns to choose: leave out image and label")
        return _digits()
    # Unlike the method of Path, this leaves the name of an unknown user as it is.
    folder = Path(os.path.expanduser(source))
    # An empty string would be the working folder.
    if source != "" and folder.is_dir():
        return _from_folder(folder.resolve(), image, label)
    if isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        return _from_hub(source, image, label)
    if isinstance(source, Path) or "/" in source:
        raise DataError(f"{source} is not a folder" if folder.exists() else f"no such folder: {source}")
    accepted = [DIGITS, "a folder of parquet files", "a hub id like ylecun/mnist"]
    raise DataError(unknown("data set", str(source), accepted))


def _digits() -> Splits:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    parts = train_test_split(torch.arange(len(labels)).numpy(), test_size=360, stratify=bunch.target, random_state=0)
    train, test = (torch.from_numpy(part).sort().values for part in parts)
    mean, std = channel_statistics(images[train])
    data = ImageData(images, labels, tuple(map(str, bunch.target_names)), mean, std)
    return Splits(data.take(train), data.take(test), DIGITS)


def _from_folder(folder: Path, image: str | None, label: str | None) -> Splits:
    files = _parquet_files(folder)
    if not files:
        raise DataError(f"no parquet files in {folder}; it needs train-*.parquet and test-*.parquet")
    stats = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = ["folder", str(folder), stats, image, label]

    def decode() -> Splits:
        with _without_patterns(folder) as place:
            return decode_splits(_open_folder(place), folder.name, image, label)

    return decoded_once(folder.name, identity, decode)


@contextmanager
def _without_patterns(folder: Path) -> Iterator[Path]:
    """The folder, or one of links to its files, whose name the `datasets` library does not take for a pattern."""
    if not has_magic(str(folder)):
        yield folder
        return
    with TemporaryDirectory() as place:
        for file in _parquet_files(folder):
            link = Path(place) / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        yield Path(place)


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.parquet") if file.is_file() and not _is_hidden(file, folder))


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether the `datasets` library passes over this file: it or a folder on the way to it is hidden."""
    return any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)


def _open_folder(folder: Path) -> Any:
    import datasets

    try:
        # Streamed, because otherwise the library keeps a copy of all rows beside the tensors kept here.
        return datasets.load_dataset(str(folder), streaming=True)
    # The library lets errors of many others through, of file formats above all.
    except Exception as error:
        raise DataError(f"{folder} cannot be read as a data set: {type(error).__name__}: {error}") from error


def _from_hub(name: str, image: str | None, label: str | None) -> Splits:
    parts = open_hub(name)
    # The library's own key of what it loaded: it changes with the data set's revision.
    prints = {part: data._fingerprint for part, data in parts.items()}
    return decoded_once(name, ["hub", name, prints, image, label], lambda: decode_splits(parts, name, image, label))
