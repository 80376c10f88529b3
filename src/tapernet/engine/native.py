"""The compiled kernels, if they were built when the library was installed."""

import os
import warnings
from functools import cache
from importlib import import_module
from typing import Any

from tapernet.errors import ConfigError
from tapernet.registry import unknown


@cache
def extension() -> Any:
    """The extension module, or None where it was not built."""
    try:
        return import_module("tapernet.engine._native")
    except ImportError:
        return None


@cache
def warn_once() -> None:
    """Says, the first time, that there are no kernels."""
    warnings.warn(
        "tapernet was installed without its native kernels: tapernet.compile runs everything through torch. "
        "To have them, install a C++ compiler, and tapernet again",
        RuntimeWarning,
        stacklevel=3,
    )


def described_kernels() -> str:
    """Which kernels there are, in words."""
    if extension() is None:
        return "no kernels: install a C++ compiler, and tapernet again"
    found = available_kernels()
    return f"kernels for this processor: {', '.join(found)}; {found[0]} is used"


SETS = ("amx", "avx512", "avx2", "neon", "portable")
"""All instruction sets that there are kernels for, best first."""
CAP = "TAPERNET_KERNELS"
"""Environment variable: the best set to use, so that every set can be tried on one machine."""


def available_kernels() -> list[str]:
    """The instruction sets that this processor runs, best first, down from the one that TAPERNET_KERNELS names.

    Raises:
        ConfigError: the variable names something else.
    """
    found: list[str] = extension().kernels()
    cap = os.environ.get(CAP, SETS[0])
    if cap not in SETS:
        raise ConfigError(f"{CAP}: {unknown('instruction set', cap, SETS)}")
    return [name for name in found if SETS.index(name) >= SETS.index(cap)]


def choose_kernels(name: str) -> str:
    """The kernels to use, the best ones for "auto".

    Raises:
        ConfigError: not an instruction set that this processor has and TAPERNET_KERNELS allows.
    """
    found = available_kernels()
    if name == "auto":
        return found[0]
    if name not in found:
        raise ConfigError(unknown("instruction set", name, ["auto", *found]))
    return name
