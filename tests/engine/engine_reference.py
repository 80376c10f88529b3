"""What the engine's tests share: the kernels that this machine has, and the comparison with torch."""

import pytest
import torch
from torch import Tensor, nn

from tapernet.engine.native import extension

KERNELS: list[str] = [] if extension() is None else extension().kernels()
ROUGH: list[str] = [] if extension() is None else extension().rough_kernels()

needs_kernels = pytest.mark.skipif(not KERNELS, reason="the native kernels were not built")


def tolerance_of(kernels: str) -> float:
    """For `close`, of one layer: two bfloat16 hold the products to 2**-16."""
    return 2.0**-15 if kernels in ROUGH else 1e-5


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Fails if two results differ by more than a share of the largest value."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(scale, 1e-3))


@torch.no_grad()
def by_torch(net: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = net.eval()(x)
    return out
