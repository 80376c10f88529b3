import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tapernet import activation_maps, load, load_data, save, taper, zoo
from tapernet.cli import main
from tapernet.saving import load_with_spec


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command hands to the drawing."""
    seen: dict[str, Any] = {}

    def draw(pictures: torch.Tensor, found: object, path: object, **options: object) -> None:
        seen.update(pictures=pictures, found=found, path=path, **options)

    # The package's `cam` is the function, not the module.
    monkeypatch.setattr(sys.modules["tapernet.commands.cam"], "draw_maps", draw)
    return seen


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(2)]


def test_the_grid_is_written(resnet_file: Path, files: list[str], tmp_path: Path) -> None:
    output = tmp_path / "grid.png"
    assert main(["cam", *files, "--net", str(resnet_file), "--labels", "['3','7']", "--output", str(output)]) == 0
    with Image.open(output) as grid:
        assert grid.width > 4 * grid.height  # eleven columns, two rows


def test_files_and_test_images_are_prepared_as_the_network_wants_them(
    resnet_file: Path, files: list[str], drawn: dict[str, Any]
) -> None:
    arguments = ["--labels", "[3,'7']", "--test_images", "[3,17]", "--budgets", "[0.2,1.0]"]
    assert main(["cam", *files, "--net", str(resnet_file), *arguments]) == 0
    test = load_data("digits").test
    raw = torch.stack([torch.from_numpy(np.array(Image.open(f)))[None] for f in files])
    raw = torch.cat([raw, test.images[[3, 17]]])
    images = (raw / 255 - test.mean[0]) / test.std[0]
    assert drawn["labels"] == [3, 7, *test.labels[[3, 17]].tolist()]
    torch.testing.assert_close(drawn["pictures"], raw / 255)
    for found, expected in zip(drawn["found"], activation_maps(load(resnet_file), images, [0.2, 1.0]), strict=True):
        assert found.budget == expected.budget
        torch.testing.assert_close(found.maps, expected.maps, rtol=1e-3, atol=1e-4)


def test_the_true_class_and_a_named_budget(resnet_file: Path, drawn: dict[str, Any], tmp_path: Path) -> None:
    net = load(resnet_file)
    net.name_budget("fast", {"*": 0.3})
    save(net, tmp_path / "net", load_with_spec(resnet_file)[1])
    arguments = ["--test_images", "[0,1,2]", "--true_class", "true", "--budgets", "[fast]"]
    assert main(["cam", "--net", str(tmp_path / "net"), *arguments]) == 0
    assert drawn["found"][0].budget == "fast"
    assert drawn["found"][0].shown.tolist() == drawn["labels"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which images?"),
        (["nothing.png"], "no such picture: nothing.png"),
        (["text.png"], "text.png cannot be read as a picture"),
        (["a.png", "--labels", "['3','4']"], "1 picture files need as many labels, not 2"),
        (["a.png", "--labels", "[three]"], "unknown class 'three'"),
        (["a.png", "--true_class", "true"], "needs the class of every image"),
        (["--test_images", "[360]"], "index 360 is not in a data set of 360 images"),
        (["--test_images", "[3]", "--budgets", "[0]"], "a budget lies in (0, 1]"),
        (["--test_images", "[3]", "--budgets", "[0.33]"], "no batch-norm statistics for budget 0.33"),
        (["--test_images", "[3]", "--budgets", "[fats]"], "unknown named budget 'fats'"),
        (["--test_images", "[3]", "--output", "/dev/null/a.png"], "cannot write"),
        (["--test_images", "[3]", "--outptu", "a.png"], "did you mean 'output'"),
        (["--test_images", "[3]", "--net", "mlp-digits"], "does not read the global average"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_named(
    arguments: list[str], message: str, resnet_file: Path, files: list[str], tmp_path: Path,
    refused: Callable[[Sequence[str]], str],
) -> None:  # fmt: skip
    (tmp_path / "a.png").write_bytes(Path(files[0]).read_bytes())
    (tmp_path / "text.png").write_text("no picture")
    net = [] if "--net" in arguments else ["--net", str(resnet_file)]
    assert message in refused(["cam", *arguments, *net])


def test_a_network_without_word_of_its_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(taper(zoo.create("resnet", depth=8), torch.zeros(1, 3, 32, 32)), tmp_path / "net")
    assert main(["cam", "a.png", "--net", str(tmp_path / "net")]) == 2
    assert "does not tell how its images were prepared" in capsys.readouterr().err
