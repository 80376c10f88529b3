from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tapernet.cli import main


def test_the_grid_is_written(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 7, dtype=np.uint8)).save(tmp_path / "seven.png")
    arguments = ["--net", "c10net-cifar10-learned", "--output", str(tmp_path / "maps.png")]
    assert main(["maps", str(tmp_path / "seven.png"), *arguments]) == 0
    with Image.open(tmp_path / "maps.png") as grid:
        assert grid.width > 2 * grid.height  # five columns, one row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which images?"),
        (["nothing.png"], "no such picture: nothing.png"),
        (["--test_images", "[3]", "--net", "c10net-digits"], "call terminate"),
        (["--test_images", "[3]", "--net", "c10net-digits", "--budget", "0.5"], "no dial"),
        (["--test_images", "[3]", "--output", "/dev/null/a.png"], "cannot write"),
        (["--test_images", "[3]", "--outptu", "a.png"], "did you mean 'output'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_named(arguments: list[str], message: str, refused: Callable[[Sequence[str]], str]) -> None:
    assert message in refused(["maps", *arguments])
