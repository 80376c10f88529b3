"""Packages that only some work needs, imported when that work begins."""

from importlib import import_module
from typing import Any

from tapernet.errors import ConfigError


def need(module: str, extra: str, what: str) -> Any:
    """The module; raises ConfigError that tells how to install it if it is missing.

    Args:
        module: to import, "torchcam.methods" and the like.
        extra: of this package that brings it.
        what: needs it, for the message.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(f"{what} needs the package {package} ({error}): pip install 'tapernet[{extra}]'") from error
