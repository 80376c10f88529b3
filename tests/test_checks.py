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
