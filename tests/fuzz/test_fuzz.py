"""The engine, `taper` and `extract` against torch on drawn networks; `make fuzz` draws new ones, as long as asked."""

import warnings

import pytest

from fuzz import Failure, case, run
from tapernet.engine.native import available_kernels, extension

pytestmark = pytest.mark.skipif(extension() is None, reason="the native kernels were not built")


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_drawn_networks_compute_what_torch_computes(first: int) -> None:
    kernels = available_kernels()
    ends: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(first, first + 10):
            drawn = case(seed)
            try:
                ends += run(drawn, [kernels[0], kernels[-1]])
            except Failure as failure:
                pytest.fail(f"seed {seed}: {failure}\n{drawn.script}")
    assert ends.count("right") >= 5  # a draw that is refused shows nothing
