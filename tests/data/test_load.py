import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tapernet.data import load_data
from tapernet.errors import DataError

LABELS = [0, 1, 1, 0, 1, 0]
Write = Callable[..., Path]


def both(write: Write, pictures: Any, labels: Any = LABELS, **more: Any) -> Path:
    write("test", pictures, labels, **more)
    return write("train", pictures, labels, **more)


class TestDigits:
    def test_every_image_of_scikit_learn_is_in_one_part(self) -> None:
        splits = load_data()
        assert (len(splits.train), len(splits.test), splits.name) == (1437, 360, "digits")
        ours = torch.cat([splits.train.images, splits.test.images]).flatten(1).numpy()
        labels = torch.cat([splits.train.labels, splits.test.labels]).numpy()
        theirs = load_digits()
        found = sorted((*row, label) for row, label in zip(np.round(ours / 255 * 16), labels, strict=True))
        assert found == sorted((*row, label) for row, label in zip(theirs.data, theirs.target, strict=True))

    def test_classes_are_equally_shared_out(self) -> None:
        splits = load_data("digits")
        share = splits.test.labels.bincount() / (splits.test.labels.bincount() + splits.train.labels.bincount())
        assert share.sub(360 / 1797).abs().max() < 0.005

    def test_train_is_standardised_and_test_is_not_on_its_own(self) -> None:
        splits = load_data("digits")
        train = splits.train.as_float()
        assert train.mean().abs() < 1e-5
        assert train.std() == pytest.approx(1, abs=1e-4)
        assert (splits.test.mean, splits.test.std) == (splits.train.mean, splits.train.std)

    def test_is_the_same_each_time(self) -> None:
        assert torch.equal(load_data("digits").test.images, load_data("digits").test.images)

    def test_has_no_columns(self) -> None:
        with pytest.raises(DataError, match="no columns"):
            load_data("digits", label="label")


class TestFolder:
    def test_grey_images_are_what_was_written(self, write: Write, grey: Any) -> None:
        write("test", grey[:2], [1, 0])
        splits = load_data(write("train", grey, LABELS))
        assert torch.equal(splits.train.images, torch.from_numpy(grey).unsqueeze(1))
        assert torch.equal(splits.test.images, torch.from_numpy(grey[:2]).unsqueeze(1))
        assert (splits.train.labels.tolist(), splits.test.labels.tolist()) == (LABELS, [1, 0])
        assert (splits.name, splits.train.class_names) == ("animals", ("cat", "dog"))

    def test_colour_images_are_what_was_written(self, write: Write, colour: Any) -> None:
        splits = load_data(str(both(write, colour)))
        assert torch.equal(splits.train.images, torch.from_numpy(colour).permute(0, 3, 1, 2))

    def test_both_parts_have_the_statistics_of_train(self, write: Write, grey: Any) -> None:
        write("test", grey[:2] // 2, [1, 0])
        splits = load_data(write("train", grey, LABELS))
        assert splits.train.mean == pytest.approx((grey.mean() / 255,))
        assert splits.train.std == pytest.approx((grey.std() / 255,))
        assert (splits.test.mean, splits.test.std) == (splits.train.mean, splits.train.std)

    def test_grey_among_colour_becomes_colour(self, write: Write, grey: Any, colour: Any) -> None:
        splits = load_data(both(write, [grey[0], colour[1]], [0, 1]))
        assert torch.equal(splits.train.images[0], torch.from_numpy(grey[0]).expand(3, -1, -1))
        assert torch.equal(splits.train.images[1], torch.from_numpy(colour[1]).permute(2, 0, 1))

    @pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("P", 3), ("RGBA", 3), ("LA", 1)])
    def test_other_modes_are_converted(self, write: Write, colour: Any, mode: str, channels: int) -> None:
        pictures = [Image.fromarray(one).convert(mode) for one in colour]
        splits = load_data(both(write, pictures))
        expected = np.stack([np.asarray(p.convert("L" if channels == 1 else "RGB")) for p in pictures])
        found = splits.train.images.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(found, expected.reshape(found.shape))

    @pytest.mark.parametrize("name", ["run[12]", "fold?", "all*"])
    def test_the_folder_that_was_named_is_read(self, name: str, tmp_path: Path, write: Write, grey: Any) -> None:
        """And none whose name the named one would stand for as a pattern."""
        for i, folder in enumerate((name, "run1", "fold1", "all_old")):
            made = both(write, grey[i : i + 2], [0, 1])
            (tmp_path / "places").mkdir(exist_ok=True)
            shutil.copytree(made, tmp_path / "places" / folder)
        found = load_data(tmp_path / "places" / name).train.images
        assert torch.equal(found[:, 0], torch.from_numpy(np.stack(grey[:2])))

    def test_a_label_that_counts_no_class_is_named(self, tmp_path: Path, grey: Any) -> None:
        encoded = io.BytesIO()
        Image.fromarray(grey[0]).save(encoded, "PNG")
        rows = {"image": [{"bytes": encoded.getvalue(), "path": None}] * 2, "label": [3, 10**7]}
        for part in ("train", "test"):
            pq.write_table(pa.table(rows), tmp_path / f"{part}.parquet")
        with pytest.raises(DataError, match="image 1 has label 10000000, but labels count classes from 0"):
            load_data(tmp_path)

    def test_cifar_column_names_are_found(self, write: Write, grey: Any) -> None:
        folder = both(write, grey, image="img", label="fine_label", coarse_label=[2] * 6)
        assert load_data(folder).train.labels.tolist() == LABELS

    def test_a_column_may_be_chosen(self, write: Write, grey: Any) -> None:
        folder = both(write, grey, image="img", label="fine_label", coarse_label=[2] * 6)
        assert load_data(folder).train.classes == 2
        train = load_data(folder, image="img", label="coarse_label").train
        assert (train.labels.tolist(), train.class_names) == ([2] * 6, ("x", "y", "z"))

    def test_plain_parquet_needs_no_schema_of_the_library(self, tmp_path: Path, grey: Any, png: Any) -> None:
        table = pa.table({"image": [png(one) for one in grey], "label": LABELS})
        for part in ("train", "test"):
            pq.write_table(table, tmp_path / f"{part}.parquet")
        train = load_data(tmp_path).train
        assert torch.equal(train.images, torch.from_numpy(grey).unsqueeze(1))
        assert train.class_names == ("0", "1")

    def test_the_column_asked_for_must_exist(self, write: Write, grey: Any) -> None:
        with pytest.raises(DataError, match=r"no column 'lable' for the label; columns: image, label"):
            load_data(both(write, grey), label="lable")

    def test_columns_with_unusual_names_must_be_chosen(self, write: Write, grey: Any) -> None:
        folder = both(write, grey, label="species")
        with pytest.raises(DataError, match=r"None of image, species is called label or .*pass label="):
            load_data(folder)
        assert load_data(folder, label="species").train.labels.tolist() == LABELS

    def test_the_image_column_must_hold_images(self, write: Write, grey: Any) -> None:
        with pytest.raises(DataError, match="column 'label' does not hold images"):
            load_data(both(write, grey), image="label")

    def test_the_label_column_must_hold_labels(self, write: Write, grey: Any) -> None:
        with pytest.raises(DataError, match="column 'image' does not hold class labels"):
            load_data(both(write, grey), label="image")

    def test_no_parquet_files(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=f"no parquet files in {tmp_path}"):
            load_data(tmp_path)

    def test_hidden_files_do_not_count(self, write: Write, grey: Any, tmp_path: Path) -> None:
        both(write, grey).rename(tmp_path / ".hidden")
        with pytest.raises(DataError, match="no parquet files"):
            load_data(tmp_path)

    @pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("test", "train")])
    def test_a_missing_split(self, write: Write, grey: Any, there: str, missing: str) -> None:
        with pytest.raises(DataError, match=f"no {missing} split; splits found: {there}"):
            load_data(write(there, grey, LABELS))

    def test_the_first_image_of_another_size_is_named(self, write: Write, grey: Any) -> None:
        pictures = [*grey[:3], grey[3][:, :3], grey[4][:2]]
        with pytest.raises(DataError, match="train: image 3 is 5x3, but those before it are 5x4"):
            load_data(both(write, pictures, LABELS[:5]))

    def test_parts_of_different_size(self, write: Write, grey: Any) -> None:
        write("test", grey[:, :3], LABELS)
        with pytest.raises(DataError, match=r"train images are \(1, 5, 4\), but test images \(1, 3, 4\)"):
            load_data(write("train", grey, LABELS))

    def test_a_damaged_image_is_named(self, write: Write, grey: Any, png: Any) -> None:
        with pytest.raises(DataError, match="train: image 1 cannot be decoded"):
            load_data(both(write, [grey[0], png(grey[1])["bytes"][:50]], [0, 1]))

    def test_a_missing_image_is_named(self, write: Write, grey: Any) -> None:
        with pytest.raises(DataError, match="train: image 1 is missing"):
            load_data(both(write, [grey[0], None], [0, 1]))

    def test_deep_colour_is_refused(self, write: Write, grey: Any) -> None:
        deep = [Image.fromarray(one.astype(np.uint16) * 200) for one in grey]
        with pytest.raises(DataError, match="image 0 has more than 8 bits"):
            load_data(both(write, deep))

    def test_a_withheld_label_is_named(self, write: Write, grey: Any) -> None:
        with pytest.raises(DataError, match="train: label -1 of image 2"):
            load_data(both(write, grey[:3], [0, 1, None]))

    def test_an_empty_split(self, write: Write, grey: Any) -> None:
        write("test", [], [])
        with pytest.raises(DataError, match="test: an empty data set"):
            load_data(write("train", grey, LABELS))

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_a_damaged_parquet_file(self, write: Write, grey: Any, part: str) -> None:
        folder = both(write, grey)
        (folder / f"{part}-00000-of-00001.parquet").write_bytes(b"PAR1 nothing of use PAR1")
        with pytest.raises(DataError, match=r"animals.* cannot be read"):
            load_data(folder)


class TestNames:
    @pytest.mark.parametrize("source", ["mnits", "", "digit"])
    def test_an_unknown_name_lists_what_is_accepted(self, source: str) -> None:
        with pytest.raises(DataError, match=f"unknown data set '{source}'.*valid: a folder of .*, a hub id .*, digits"):
            load_data(source)

    @pytest.mark.parametrize(
        "source", ["no/such/folder", "./nowhere", "~/no-such-folder", "~no-such-user/data", Path("nowhere")]
    )
    def test_a_folder_that_is_not_there(self, source: str | Path) -> None:
        with pytest.raises(DataError, match="no such folder"):
            load_data(source)

    def test_a_file_is_not_a_folder(self, write: Write, grey: Any) -> None:
        with pytest.raises(DataError, match="is not a folder"):
            load_data(write("train", grey, LABELS) / "train-00000-of-00001.parquet")


def test_importing_loads_no_slow_library() -> None:
    code = "import sys, tapernet.data; print({'datasets', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
