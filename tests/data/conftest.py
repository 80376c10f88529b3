import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


def encode(picture: Any) -> dict[str, Any]:
    """An image as the parquet layout holds it; `picture` is an array, a PIL image, or bytes as they are."""
    if isinstance(picture, bytes):
        return {"bytes": picture, "path": None}
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TAPERNET_CACHE", str(folder))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes one split of a data set folder with the `datasets` library, and returns the folder."""

    def write(
        split: str,
        pictures: Sequence[Any],
        labels: Sequence[int | None],
        *,
        image: str = "image",
        label: str = "label",
        **more: Sequence[int],
    ) -> Path:
        features = {image: datasets.Image(), label: datasets.ClassLabel(names=["cat", "dog"])}
        features |= {column: datasets.ClassLabel(names=["x", "y", "z"]) for column in more}
        rows = {image: [None if p is None else encode(p) for p in pictures], label: list(labels), **more}
        folder = tmp_path / "animals"
        folder.mkdir(exist_ok=True)
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return folder

    return write


@pytest.fixture
def png() -> Callable[[Any], dict[str, Any]]:
    return encode


@pytest.fixture
def grey() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)


@pytest.fixture
def colour() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
