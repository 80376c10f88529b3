"""Task-wise early stopping on the validation split."""

from dataclasses import dataclass

from tapernet.errors import ConfigError


@dataclass
class EarlyStopping:
    """Stops when `patience` epochs in a row have not beaten the best (TESLA paper, section 3.1 and Table 1).

    Args:
        patience: epochs without a new best that are borne; None never stops.
        best: the highest value so far.
        stale: epochs since then.
    """

    patience: int | None
    best: float = float("-inf")
    stale: int = 0

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"patience is at least 1 epoch, not {self.patience}")

    def improved(self, value: float) -> bool:
        """Takes an epoch's value; whether it is a new best."""
        if value > self.best:
            self.best, self.stale = value, 0
            return True
        self.stale += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether it is time to stop."""
        return self.patience is not None and self.stale >= self.patience
