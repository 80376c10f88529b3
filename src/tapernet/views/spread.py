"""Numbers of several seeds in one cell."""

import statistics


def spread(values: list[float]) -> str:
    """Mean and standard deviation of shares, in percent: "97.31% (0.12)"; of a single seed, "97.31%"."""
    mean = f"{statistics.fmean(values):.2%}"
    return f"{mean} ({statistics.stdev(values) * 100:.2f})" if len(values) > 1 else mean
