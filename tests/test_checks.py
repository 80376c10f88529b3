"""What users hand over and could not be meant: an error of ours that says what was expected, before any work."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tapernet as tn
from tapernet.checks import check_number
from tapernet.errors import ConfigError, DataError, TapernetError


class TwoOutputs(nn.Module):
    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.plain(x), self.plain(x)


def as_numpy(data: tn.ImageData) -> Any:
    return data.images.numpy()


WRONG_DATA: dict[str, Callable[[tn.ImageData], Any]] = {
    "a tuple": lambda data: (data.images, data.labels), "none": lambda data: None, "a tensor": lambda data: data.images,
    "an array": as_numpy,
}  # fmt: skip
WRONG_NETS: dict[str, Callable[[nn.Module], Any]] = {
    "double": lambda net: net.double(), "two outputs": TwoOutputs, "none": lambda net: None,
    "a class": type, "of other images": lambda net: nn.Sequential(nn.Flatten(), nn.Linear(9, 3)),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_DATA)
def test_data_of_another_kind_is_refused(
    wrong: str, plain: nn.Module, train: tn.ImageData, val: tn.ImageData
) -> None:
    data = WRONG_DATA[wrong](train)
    for call in (
        lambda: tn.fit(plain, data, val, tn.FineTune(epochs=1), progress=False),
        lambda: tn.fit(plain, train, data, tn.FineTune(epochs=1), progress=False),
        lambda: tn.evaluate(plain, data),
    ):
        with pytest.raises(DataError, match="is an ImageData"):
            call()


@pytest.mark.parametrize("wrong", WRONG_NETS)
def test_networks_that_do_not_fit_are_refused(
    wrong: str, plain: nn.Module, train: tn.ImageData, val: tn.ImageData
) -> None:
    net = WRONG_NETS[wrong](plain)
    for call in (
        lambda: tn.fit(net, train, val, tn.FineTune(epochs=1), progress=False),
        lambda: tn.evaluate(net, val),
    ):
        with pytest.raises(TapernetError, match="the network"):
            call()


def test_a_network_that_learns_nothing_is_refused(plain: nn.Module, train: tn.ImageData, val: tn.ImageData) -> None:
    first = next(plain.parameters())
    plain.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of the network learns"):
        tn.fit(plain, train, val, tn.FineTune(epochs=1), progress=False)
    first.requires_grad_()
    others = [p.clone() for p in plain.parameters()][1:]
    tn.fit(plain, train, val, tn.FineTune(epochs=1), progress=False)
    assert all(torch.equal(a, b) for a, b in zip(others, list(plain.parameters())[1:], strict=True))


def test_scores_that_are_not_numbers_are_no_accuracy(plain: nn.Module, val: tn.ImageData) -> None:
    with torch.no_grad():
        next(plain.parameters())[:] = torch.nan
    with pytest.raises(DataError, match=r"not numbers \(NaN\)"):
        tn.evaluate(plain, val)
    net = tn.taper(plain, torch.zeros(1, 1, 4, 4), profile="all-one")
    cascade = tn.Cascade(net, (0.5, 1.0), (0.2,))
    with pytest.raises(DataError, match=r"not numbers \(NaN\)"):
        cascade.evaluate(val, latency=False)
    with pytest.raises(DataError, match=r"not numbers \(NaN\)"):
        tn.calibrate_cascade(net, val, (0.5, 1.0))


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), -1, 10**400, 1.5, np.float64(2)])
def test_numbers(value: object) -> None:
    if isinstance(value, float) and value in (1.5, 2.0):
        check_number("x", value, 0)
    else:
        with pytest.raises(ConfigError, match="x is a finite number from 0, not"):
            check_number("x", value, 0)
    with pytest.raises(ConfigError, match="x is a whole number above 0 to 3, not"):
        check_number("x", value, 0, 3, whole=True, above=True)


@pytest.mark.parametrize("wrong", [None, 3, "x", {"a": 1}, torch.ones(3), (torch.ones(2, 1, 4, 4), None), nn.ReLU])
def test_placement_and_calibration_take_images_and_say_so(wrong: Any, train: tn.ImageData) -> None:
    stopping = tn.terminate(nn.Sequential(nn.Conv2d(1, 3, 4), nn.ReLU(), nn.Flatten()), torch.zeros(1, 1, 4, 4))
    net = tn.taper(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)),
                   torch.zeros(2, 1, 4, 4))  # fmt: skip
    tn.calibrate(net, [train.as_float()], [0.7])
    with pytest.raises(DataError, match="images"):
        tn.place_checks(stopping, wrong, tolerance=0.5)
    if not isinstance(wrong, tuple):
        with pytest.raises(ConfigError, match="the network: a torch module"):
            tn.place_checks(wrong, train, tolerance=0.5)
        with pytest.raises(ConfigError):
            tn.calibrate(net, wrong, [0.5])
        with pytest.raises(ConfigError, match="budget"):
            tn.calibrate(net, [train.as_float()], wrong)
    assert net.calibrated_budgets() == [0.7]
    for labels in (train.labels.float(), train.labels - 1, train.labels.tolist(), train.labels + 9):
        with pytest.raises(DataError, match=r"labels|classes"):
            tn.place_checks(stopping, (train.as_float(), labels), tolerance=0.5)
    with pytest.raises(ConfigError, match=r"in torch\.float64, but images are torch\.float32"):
        tn.place_checks(stopping.double(), train, tolerance=0.5)
    tn.place_checks(stopping, (train.as_float().double(), train.labels), tolerance=0.5)


@pytest.mark.parametrize("name", ["settings", "fabric", "run_dir", "answers", "recipe"])
def test_arguments_of_fit_of_another_kind_are_named(
    name: str, plain: nn.Module, train: tn.ImageData, val: tn.ImageData
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: .*, not "):
        tn.fit(plain, train, val, **{"recipe": tn.FineTune(epochs=1), "progress": False, name: torch.ones(3)})


def test_arrays_in_place_of_tensors_are_told(train: tn.ImageData) -> None:
    for images, labels in ((train.images.numpy(), train.labels), (train.images, train.labels.numpy()),
                           (train.images, train.labels.tolist())):  # fmt: skip
        with pytest.raises(DataError, match=r"(images|labels) are a tensor, not a (ndarray|list): torch\.as_tensor"):
            tn.ImageData(images, labels, train.class_names)
