"""What a run tells while it trains: a progress bar, metrics.csv and TensorBoard."""

import csv
import io
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tapernet.files import write_text
from tapernet.train.recipes import Stage


class Report:
    """Progress bar and logs of one run.

    Args:
        folder: where the logs go; None for none.
        enabled: whether to show the bar.
    """

    def __init__(self, folder: Path | None, enabled: bool) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.board = None if folder is None else TensorBoardLogger(folder, name="", version="tensorboard")
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("epoch {task.fields[epoch]} {task.fields[metrics]}"),
            TimeElapsedColumn(),
            disable=not enabled,
            transient=True,
        )
        self.line = self.bar.add_task("", total=1, epoch=0, metrics="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if self.board is not None:
            self.board.finalize("success" if error is None else "failed")

    def replay(self, rows: list[dict[str, Any]]) -> None:
        """Takes the rows of a run that is resumed."""
        self.rows = list(rows)

    def stage(self, stage: Stage, epoch: int) -> None:
        """A stage begins, or goes on after `epoch` epochs."""
        self.bar.update(self.line, description=stage.task, epoch=epoch + 1, metrics="")

    def step(self, step: int, steps: int) -> None:
        """A step is done. The bar moves a hundred times an epoch: it must not cost what a small step costs."""
        if step % max(1, steps // 100) == 0:
            self.bar.update(self.line, completed=step, total=steps)

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done."""
        self.rows.append(row)
        accuracies = " ".join(f"{k.removeprefix('val_')}%:{v:.4f}" for k, v in row.items() if k.startswith("val_"))
        self.bar.update(self.line, epoch=row["epoch"] + 1, metrics=f"loss {row['loss']:.4f} accuracy {accuracies}")
        if self.folder is None or self.board is None:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, dict.fromkeys(key for r in self.rows for key in r))
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "metrics.csv", text.getvalue())
        self.board.log_metrics({k: v for k, v in row.items() if isinstance(v, float)}, len(self.rows))
