"""In which order a filter adds its products, and the other choices about how it stops."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tapernet.errors import ConfigError
from tapernet.registry import Registry, unknown

ORDERS: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry("order")
"""In which order a filter adds its products: from weights and E|x|, (filters, K, H, W), to scores, highest first."""

GRADIENTS = ("exact", "straight-through", "gated")
EXACT = "exact"


@ORDERS.register("magnitude")
def by_magnitude(weight: Tensor, _: Tensor) -> Tensor:
    """|w| (ET paper, section 4.3.2)."""
    return weight.abs()


@ORDERS.register("expected")
def by_expected_product(weight: Tensor, mean_input: Tensor) -> Tensor:
    """|w| E|x|: the size that the product has on average."""
    return weight.abs() * mean_input


@ORDERS.register(EXACT)
def positive_first(weight: Tensor, _: Tensor) -> Tensor:
    """Positive weights, then negative ones by magnitude, then zeros (SnaPEA, Akhlaghi et al. 2018, exact mode)."""
    return torch.where(weight > 0, torch.inf, weight.abs())


@dataclass(frozen=True)
class Termination:
    """How a layer's filters stop.

    Args:
        order: a name from `ORDERS`. "exact" takes no checks: inputs are not negative, so that once the positive weights
            are through, the sum only falls, and a filter stops for good reason as soon as it is negative.
        bias_first: whether partial sums start from the bias (always so in the exact order) or, as in the ET paper's
            Eq. 2, leave it to the end.
        gradient: "exact" goes through what was emitted; "straight-through" through the full sum and its ReLU, as if
            nothing had stopped; "gated" as "exact", and lets the loss move checks, too: a filter whose stop costs
            accuracy learns to pass (see `rectifies`).

    Raises:
        ConfigError: an unknown order or gradient; another gradient than "exact" with the exact order.
    """

    order: str = "magnitude"
    bias_first: bool = False
    gradient: str = "exact"

    def __post_init__(self) -> None:
        ORDERS[self.order]
        if self.gradient not in GRADIENTS:
            raise ConfigError(unknown("gradient", self.gradient, GRADIENTS))
        if self.order == EXACT and self.gradient != "exact":
            raise ConfigError(
                f"the exact order emits what a plain convolution does: it has no {self.gradient} gradient"
            )

    @property
    def rectifies(self) -> bool:
        """Whether the layer applies the ReLU after it itself, as gradients that depend on that ReLU need."""
        return self.gradient != "exact"
