"""Width multipliers."""

from tapernet.errors import ConfigError


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """A channel count times a width multiplier, to the nearest multiple, at least one multiple.

    Raises:
        ConfigError: a width of 0 or less.
    """
    if not width > 0:
        raise ConfigError(f"width is more than 0, not {width!r}")
    return max(1, int(channels * width / multiple + 0.5)) * multiple
