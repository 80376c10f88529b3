"""`tapernet reproduce`."""

from pathlib import Path

from tapernet.commands.console import show
from tapernet.errors import ConfigError
from tapernet.experiment import reproduce as run
from tapernet.experiment.common import Job, commit


def reproduce(
    experiment: str,
    data: str | None = None,
    only: list[str] | None = None,
    experiments: str = "experiments",
    results: str = "results",
    runs: str = "runs",
    dirty: bool = False,
) -> None:
    """Trains and measures what a result file of the papers' figures still lacks.

    Args:
        experiment: <paper>/<figure>, as in tesla/mnist_tesla.
        data: where the data set is, in place of the experiment's own source.
        only: names of the curves to train; all by default.
        experiments: folder of the YAML files.
        results: folder of the result files.
        runs: folder of checkpoints and trained networks.
        dirty: go on though the code differs from its commit, which the results then say.
    """
    path = Path(experiments) / f"{experiment}.yaml"
    of = commit() or ""
    if path.is_file() and of.endswith("-dirty") and not dirty:
        raise ConfigError(f"the code differs from commit {of.removesuffix('-dirty')}, so that nobody could repeat what "
                          f"is measured: commit it first, or give --dirty true")  # fmt: skip
    run(path, Job(Path(results) / f"{experiment}.json", Path(runs) / experiment, data, only or (), show))
