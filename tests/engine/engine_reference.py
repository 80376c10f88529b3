"""What the engine's tests share: the kernels that this machine has, and the comparison with torch."""

import pytest
import torch
from torch import Tensor, nn

from tapernet.engine.native import available_kernels, extension

KERNELS: list[str] = [] if extension() is None else available_kernels()

needs_kernels = pytest.mark.skipif(not KERNELS, reason="the native kernels were not built")


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
