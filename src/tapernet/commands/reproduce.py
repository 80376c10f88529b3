"""`tapernet reproduce`."""

from pathlib import Path

from tapernet.commands.console import show
from tapernet.experiment import reproduce as run
from tapernet.experiment.common import Job


def reproduce(
    experiment: str,
    data: str | None = None,
    only: list[str] | None = None,
    experiments: str = "experiments",
    results: str = "results",
    runs: str = "runs",
) -> None:
    """Trains and measures what a result file of the papers' figures still lacks.

    Args:
        experiment: <paper>/<figure>, as in tesla/mnist_tesla.
        data: where the data set is, in place of the experiment's own source.
        only: names of the curves to train; all by default.
        experiments: folder of the YAML files.
        results: folder of the result files.
        runs: folder of checkpoints and trained networks.
    """
    path = Path(experiments) / f"{experiment}.yaml"
    run(path, Job(Path(results) / f"{experiment}.json", Path(runs) / experiment, data, only or (), show))
