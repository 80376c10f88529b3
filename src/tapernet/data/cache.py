"""Decoded data sets, kept on disk so that images are decompressed once.

The files are in the TAPERNET_CACHE folder if that variable is set, else in the user's cache folder. Any of them may
be deleted at any time.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from tapernet.data.images import ImageData, Splits
from tapernet.errors import FileError
from tapernet.files import read_tensors, reading, write_tensors

KIND = "data set"
VERSION = 2


def cache_folder() -> Path:
    """Where decoded data sets are kept: TAPERNET_CACHE, or the user's cache folder for this library."""
    return Path(os.environ.get("TAPERNET_CACHE") or user_cache_path("tapernet"))


def decoded_once(name: str, identity: Any, decode: Callable[[], Splits]) -> Splits:
    """What `decode` gives, from the cache if it is there, and else put there for the next time.

    A cache file that cannot be read is made again; one that cannot be written costs a warning and nothing else.

    Args:
        name: of the data set; it starts the cache file's name.
        identity: JSON that differs whenever the decoded images would.
        decode: gives uint8 images.
    """
    digest = hashlib.sha256(json.dumps([VERSION, identity]).encode()).hexdigest()[:16]
    path = cache_folder() / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:80]}-{digest}.safetensors"
    try:
        return _read(path, name)
    except FileError:
        splits = decode()
    try:
        _write(path, splits)
    except FileError as error:
        warnings.warn(f"the decoded data set is not kept, and will be decoded again next time: {error}", stacklevel=2)
    return splits


def _write(path: Path, splits: Splits) -> None:
    parts = {"train": splits.train, "test": splits.test}
    tensors = {f"{part}.images": data.images for part, data in parts.items()}
    tensors |= {f"{part}.labels": data.labels for part, data in parts.items()}
    shared = {key: getattr(splits.train, key) for key in ("class_names", "mean", "std")}
    write_tensors(path, tensors, {"kind": KIND, "version": VERSION, **shared})


def _read(path: Path, name: str) -> Splits:
    tensors, header = read_tensors(path, kind=KIND, version=VERSION)
    with reading(path, "data set"):
        shared = {key: tuple(header[key]) for key in ("class_names", "mean", "std")}
        parts = {p: ImageData(tensors[f"{p}.images"], tensors[f"{p}.labels"], **shared) for p in ("train", "test")}
        return Splits(**parts, name=name)
