"""The compiled kernels, if they were built when the library was installed."""

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
        "the native kernels were not built when tapernet was installed (that needs a C++ compiler): "
        "tapernet.compile runs everything through torch",
        RuntimeWarning,
        stacklevel=3,
    )


PRECISIONS = ("highest", "high")


def choose_kernels(name: str, precision: str) -> str:
    """The kernels to use: the best ones for "auto", which with precision "high" may be rough ones.

    Raises:
        ConfigError: not an instruction set that this processor has.
    """
    found: list[str] = extension().kernels()
    rough: list[str] = extension().rough_kernels()
    if name == "auto":
        return rough[0] if rough and precision == "high" else found[0]
    if name not in (*found, *rough):
        raise ConfigError(unknown("instruction set", name, ["auto", *found, *rough]))
    return name


def has_high_precision() -> bool:
    """Whether this machine has kernels that "high" precision makes faster."""
    return extension() is not None and bool(extension().rough_kernels())
