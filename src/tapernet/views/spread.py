"""Numbers of several seeds in one cell."""

import statistics


def spread(values: list[float]) -> str:
    """Mean and standard deviation of shares, in percent: "97.31% (0.12)"."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.2%} ({deviation * 100:.2f})"
