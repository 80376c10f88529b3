"""Profiles: non-increasing weights of a layer's channels, largest first (TESLA paper, section 2.1).

A new profile is one function here: from a channel count N to N coefficients. So is a new way to order a learned one.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tapernet.errors import ConfigError
from tapernet.registry import Registry, unknown

TRAINABLE = "trainable"
"""The profile that starts at ones and is learned in turns with the weights (ATP, section 3.4)."""

PROFILES: Registry[Callable[[int], Sequence[float]]] = Registry("profile")

PROFILE_ORDERS: Registry[Callable[[Tensor], Tensor]] = Registry("order of profiles")
"""How a trainable profile is made non-increasing again after a step; from its coefficients, shape (N,)."""

ProfileSpec = str | Sequence[float]
"""A registered name, "trainable", or the coefficients themselves."""


@PROFILES.register("all-one")
def all_one(n: int) -> list[float]:
    """1 everywhere: the plain network's weighting."""
    return [1.0] * n


@PROFILES.register("linear")
def linear(n: int) -> list[float]:
    """1 - (i - 1) / N."""
    return [1 - (i - 1) / n for i in range(1, n + 1)]


@PROFILES.register("harmonic")
def harmonic(n: int) -> list[float]:
    """1 / i."""
    return [1 / i for i in range(1, n + 1)]


@PROFILES.register("half-exponential")
def half_exponential(n: int) -> list[float]:
    """1 up to N / 2, then exp(-(i - N / 2))."""
    return [1.0 if i <= n / 2 else math.exp(n / 2 - i) for i in range(1, n + 1)]


def profile_names() -> list[str]:
    """Every name that `coefficients` takes."""
    return sorted([*PROFILES, TRAINABLE])


def coefficients(profile: ProfileSpec, n: int) -> Tensor:
    """The N coefficients of a profile, shape (N,), float32.

    Args:
        profile: a name from `profile_names()`, or N numbers.
        n: the layer's channel count.

    Raises:
        ConfigError: an unknown name; numbers, given or by a registered function, of another length, that increase, are
            negative, not finite or all zero.
    """
    if isinstance(profile, str):
        if profile == TRAINABLE:
            return torch.ones(n)
        if profile not in PROFILES:
            raise ConfigError(unknown("profile", profile, profile_names()))
        profile = PROFILES[profile](n)
    try:
        values = [float(v) for v in profile]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a profile is a name ({', '.join(profile_names())}) or numbers, not {profile!r}") from error
    if len(values) != n:
        raise ConfigError(f"a profile for {n} channels has {n} coefficients, not {len(values)}")
    if not all(math.isfinite(v) and v >= 0 for v in values):
        raise ConfigError("profile coefficients are finite and not negative")
    if not any(values):
        raise ConfigError("profile coefficients are not all zero")
    rise = next((i for i, (a, b) in enumerate(pairwise(values)) if b > a), None)
    if rise is not None:
        raise ConfigError(
            f"a profile does not increase, but coefficient {rise + 1} is {values[rise]:g} "
            f"and the next {values[rise + 1]:g}"
        )
    return torch.tensor(values, dtype=torch.float32)


@PROFILE_ORDERS.register("cumulative-minimum")
def cumulative_minimum(gamma: Tensor) -> Tensor:
    """Each coefficient lowered to the least one before it, as in the TESLA paper (section 3.4).

    It works like a ratchet. An optimizer's step moves every coefficient up or down by about its learning rate, and
    whichever goes down takes all later ones with it. On MNIST the profile falls to the floor within the first ten
    channels in one epoch, whatever the loss says of them.
    """
    return gamma.cummin(0).values


@PROFILE_ORDERS.register("isotonic")
def isotonic(gamma: Tensor) -> Tensor:
    """The nearest non-increasing sequence (isotonic regression), which moves coefficients up as often as down."""
    from sklearn.isotonic import isotonic_regression

    nearest = isotonic_regression(gamma.double().cpu().numpy(), increasing=False)
    return torch.from_numpy(nearest.copy()).to(gamma)
