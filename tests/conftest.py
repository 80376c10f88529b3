"""Small data and networks that every test may use."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from tapernet.cli import main
from tapernet.data import ImageData
from tapernet.zoo.mlp import mlp

# The networks here are so small that a second thread only waits for the first.
torch.set_num_threads(1)


def blobs(n: int, seed: int) -> ImageData:
    """Three classes of 1x4x4 images: noise around a class's own pattern."""
    patterns = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    images = patterns[labels] + 0.8 * torch.randn(n, 1, 4, 4, generator=generator)
    return ImageData(images, labels, ("a", "b", "c"))


@pytest.fixture
def train() -> ImageData:
    return blobs(200, seed=1)


@pytest.fixture
def val() -> ImageData:
    return blobs(100, seed=2)


@pytest.fixture
def plain() -> nn.Module:
    torch.manual_seed(0)
    return mlp((1, 4, 4), 3, (20, 12))


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Sequence[str]], str]:
    """Runs a command in an empty folder, which must exit with 2; returns what it says."""

    def run(arguments: Sequence[str]) -> str:
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 2
        return capsys.readouterr().err

    return run
