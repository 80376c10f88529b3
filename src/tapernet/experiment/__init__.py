"""Experiments: a YAML file in, a result file out, with whatever is missing trained.

`experiments/<paper>/<figure>.yaml` describes the curves of one figure; `results/<paper>/<figure>.json` holds what was
measured. A run that is stopped at any moment goes on where it was. A kind of experiment is one file here and one line
in `KINDS`; a YAML file names its kind in its first key, budgets if it does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapernet.config import read_kind, read_yaml
from tapernet.experiment import curves, termination
from tapernet.experiment.common import Job, check_names
from tapernet.registry import Registry


@dataclass(frozen=True)
class Kind:
    """A kind of experiment.

    Args:
        config: the dataclass of its YAML file; it has `curves` with a `name` each.
        run: trains and measures what a result file lacks, from the config and the job.
    """

    config: type[Any]
    run: Callable[[Any, Job], None]


KINDS: Registry[Kind] = Registry("kind of experiment")
KINDS.register("budgets")(Kind(curves.Experiment, curves.reproduce))
KINDS.register("termination")(Kind(termination.Experiment, termination.reproduce))


def reproduce(path: Path, job: Job) -> None:
    """Trains and measures what the result file lacks, and writes it after each piece.

    Args:
        path: the experiment's YAML file.
        job: where results go, and what of the experiment to run.

    Raises:
        FileError: the YAML file is missing.
        ConfigError: an unknown key or a bad value in it; `job.only` names a curve that is not there; the result file
            holds a curve made with other settings.
    """
    kind = KINDS[read_kind(path, default="budgets")]
    experiment = read_yaml(kind.config, path)
    check_names(experiment.curves, path)
    kind.run(experiment, job)
