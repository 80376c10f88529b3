import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tapernet.data import Splits, load, load_data
from tapernet.files import read_tensors

LABELS = [0, 1, 1, 0, 1, 0]
Write = Callable[..., Path]


@pytest.fixture
def folder(write: Write, grey: Any) -> Path:
    write("test", grey[:2], [1, 0])
    return write("train", grey, LABELS)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the data sets that were decoded."""
    names = []
    decode = load.decode_splits

    def counted(parts: Any, name: str, *columns: Any) -> Splits:
        names.append(name)
        return decode(parts, name, *columns)

    monkeypatch.setattr(load, "decode_splits", counted)
    return names


def same(a: Splits, b: Splits) -> bool:
    pairs = [(a.train, b.train), (a.test, b.test)]
    return a.name == b.name and all(
        torch.equal(x.images, y.images)
        and torch.equal(x.labels, y.labels)
        and (x.class_names, x.mean, x.std) == (y.class_names, y.mean, y.std)
        for x, y in pairs
    )


def test_the_second_time_nothing_is_decoded(folder: Path, decodings: list[str]) -> None:
    first, second = load_data(folder), load_data(folder)
    assert decodings == ["animals"]
    assert same(first, second)


def test_a_path_written_otherwise_is_the_same_folder(
    folder: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_data(folder)
    monkeypatch.chdir(folder.parent)
    load_data("animals")
    load_data("./animals/../animals")
    assert len(decodings) == 1


def test_a_changed_file_is_decoded_again(folder: Path, decodings: list[str], write: Write, grey: Any) -> None:
    load_data(folder)
    write("train", grey[::-1], LABELS)
    assert torch.equal(load_data(folder).train.images[0, 0], torch.from_numpy(grey[-1]))
    assert len(decodings) == 2


def test_a_touched_file_is_decoded_again(folder: Path, decodings: list[str]) -> None:
    load_data(folder)
    os.utime(folder / "test-00000-of-00001.parquet", ns=(1, 1))
    load_data(folder)
    assert len(decodings) == 2


def test_another_column_is_another_entry(write: Write, grey: Any) -> None:
    for part in ("train", "test"):
        folder = write(part, grey, LABELS, coarse_label=[2] * 6)
    assert load_data(folder).train.labels.tolist() == LABELS
    assert load_data(folder, label="coarse_label").train.labels.tolist() == [2] * 6
    assert load_data(folder).train.labels.tolist() == LABELS


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other"])
def test_a_damaged_entry_is_made_again(folder: Path, cache: Path, decodings: list[str], damage: str) -> None:
    first = load_data(folder)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    harm = {
        "cut": whole[:-10],
        "text": b"hello",
        "empty": b"",
        "other": whole.replace(b"test.labels", b"test.nothing"[:11]),
    }
    entry.write_bytes(harm[damage])
    assert same(load_data(folder), first)
    assert len(decodings) == 2
    load_data(folder)
    assert len(decodings) == 2


def test_an_entry_is_a_file_that_runs_nothing(folder: Path, cache: Path) -> None:
    load_data(folder)
    (entry,) = cache.iterdir()
    tensors, header = read_tensors(entry, kind="data set", version=2)
    assert set(tensors) == {"train.images", "train.labels", "test.images", "test.labels"}
    assert header["class_names"] == ["cat", "dog"]


def test_a_cache_that_cannot_be_written_costs_a_warning(folder: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded again next time"):
        splits = load_data(folder)
    assert len(splits.train) == 6
