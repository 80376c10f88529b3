from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tapernet import FineTune, ImageData, Settings, fit
from tapernet.errors import FileError
from tapernet.train import augmented
from tapernet.train.augmented import AugmentedViews
from tapernet.zoo.mlp import mlp

TWO = Settings(views=2, augment=("flip",), batch_size=64)


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(5)
    return mlp((1, 4, 4), 3, (30,))


@contextmanager
def asked(teacher: nn.Module) -> Iterator[list[int]]:
    """How many images it is given, call by call."""
    seen: list[int] = []
    hook = teacher.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    yield seen
    hook.remove()


def test_views_come_one_after_another_and_again(train: ImageData) -> None:
    views = AugmentedViews(train, TWO, None, None)
    first, second, third = (views.at(epoch)[0].clone() for epoch in range(3))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    whole = train.as_float()
    for view in (first, second):
        same, mirrored = (view == whole).flatten(1).all(1), (view == whole.flip(3)).flatten(1).all(1)
        assert bool((same | mirrored).all())
        assert 0.3 < same.float().mean() < 0.7
    assert views.at(0)[1] is None


def test_another_seed_has_other_views(train: ImageData) -> None:
    a, b = (AugmentedViews(train, Settings(views=1, augment=("flip",), seed=seed), None, None) for seed in (1, 2))
    assert not torch.equal(a.at(0)[0], b.at(0)[0])


def test_the_scores_are_of_the_view_at_hand(train: ImageData, teacher: nn.Module) -> None:
    views = AugmentedViews(train, TWO, teacher, None)
    for epoch in range(3):
        images, scores = views.at(epoch)
        assert scores is not None
        torch.testing.assert_close(scores.float(), teacher(images), atol=2e-3, rtol=0)


def test_it_is_asked_once_about_each_view_and_never_again_with_a_folder(
    train: ImageData, teacher: nn.Module, tmp_path: Path
) -> None:
    with asked(teacher) as images:
        views = AugmentedViews(train, TWO, teacher, tmp_path)
        first = [views.at(epoch)[1] for epoch in range(5)]
        assert sum(images) == 2 * len(train)
        again = AugmentedViews(train, TWO, teacher, tmp_path)
        assert all(torch.equal(again.at(epoch)[1], scores) for epoch, scores in enumerate(first))
        assert sum(images) == 2 * len(train)


@pytest.mark.parametrize("other", ["teacher", "seed", "augment", "images", "precision"])
def test_answers_of_other_runs_are_not_taken(
    other: str, train: ImageData, val: ImageData, teacher: nn.Module, tmp_path: Path
) -> None:
    AugmentedViews(train, TWO, teacher, tmp_path).at(0)
    change = {"seed": {"seed": 1}, "augment": {"augment": ()}, "precision": {"precision": "bf16-mixed"}}
    settings = replace(TWO, **change.get(other, {}))  # type: ignore[arg-type]
    if other == "teacher":
        with torch.no_grad():
            next(teacher.parameters())[0] += 0.1
    with asked(teacher) as images:
        AugmentedViews(val if other == "images" else train, settings, teacher, tmp_path).at(0)
    assert images


def test_a_teacher_works_in_the_precision_of_the_training(train: ImageData, val: ImageData, teacher: nn.Module) -> None:
    seen: list[torch.dtype] = []
    teacher.register_forward_hook(lambda _, __, scores: seen.append(scores.dtype))
    settings = replace(TWO, precision="bf16-mixed")
    fit(mlp((1, 4, 4), 3), train, val, FineTune(epochs=1, taught=0.5), settings, progress=False, teacher=teacher)
    assert seen[0] == torch.float32  # the check that it fits
    assert set(seen[1:]) == {torch.bfloat16}


def test_a_file_of_answers_that_is_cut_is_made_again(train: ImageData, teacher: nn.Module, tmp_path: Path) -> None:
    labels = AugmentedViews(train, TWO, teacher, tmp_path).at(0)[1]
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert torch.equal(AugmentedViews(train, TWO, teacher, tmp_path).at(0)[1], labels)
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_told(train: ImageData, teacher: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        AugmentedViews(train, TWO, teacher, tmp_path / "file").at(0)


def test_training_is_that_of_a_teacher_who_is_asked_every_time(
    train: ImageData, val: ImageData, teacher: nn.Module
) -> None:
    found = []
    for views in (1, None):  # without augmentation one view is all there is
        torch.manual_seed(0)
        net = mlp((1, 4, 4), 3, (20, 12))
        settings = Settings(views=views, batch_size=20, optimizer="sgd", lr=0.05)
        fit(net, train, val, FineTune(epochs=2, taught=0.7), settings, progress=False, teacher=teacher)
        found.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*found, atol=2e-3, rtol=0)  # scores are kept in half precision


def test_a_run_that_was_stopped_goes_on_with_the_view_that_is_due(
    train: ImageData, val: ImageData, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, nets = FineTune(epochs=5, taught=0.5), []
    settings = Settings(views=3, augment=("flip",), batch_size=20)

    def trained(folder: Path) -> None:
        torch.manual_seed(0)
        nets.append(mlp((1, 4, 4), 3, (20, 12)))
        fit(nets[-1], train, val, recipe, settings, run_dir=folder, progress=False, teacher=teacher)

    trained(tmp_path / "unbroken")
    at = AugmentedViews.at

    def stop(self: AugmentedViews, epoch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        if epoch == 2:
            raise KeyboardInterrupt
        return at(self, epoch)

    monkeypatch.setattr(augmented.AugmentedViews, "at", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken")
    monkeypatch.undo()
    trained(tmp_path / "broken")
    for a, b in zip(nets[0].parameters(), nets[-1].parameters(), strict=True):
        assert torch.equal(a, b)
