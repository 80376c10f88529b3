"""What every kind of experiment needs: networks by name, result files, where and with what code a figure was made."""

import json
import platform
import re
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from filelock import FileLock
from torch import nn

from tapernet import zoo
from tapernet.convert.taper import taper
from tapernet.data import ImageData
from tapernet.errors import ConfigError, FileError
from tapernet.files import check_writable, read_json, write_json, write_text
from tapernet.nn.net import TaperedNet
from tapernet.registry import unknown
from tapernet.saving import InputSpec, load_with_spec
from tapernet.zoo import trained
from tapernet.zoo.imagenet import load_imagenet


class Named(Protocol):
    """A curve's description."""

    @property
    def name(self) -> str:
        """Unique in its figure."""


SAME_SCALE = 1e-3
"""Means and deviations of two copies of one data set differ by less, in units where white is 1."""

N = TypeVar("N", bound=Named)
Curve: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class ModelConfig:
    """A network of the zoo.

    Args:
        name: of the network.
        arguments: of its function, besides the data set's image shape and number of classes.
        keep: modules whose outputs are never cut.
        imagenet: start from weights trained on ImageNet; needs torchvision and a network that it has, too.
    """

    name: str = "mlp"
    arguments: dict[str, Any] = field(default_factory=dict)
    keep: list[str] = field(default_factory=list)
    imagenet: bool = False


@dataclass(frozen=True)
class Job:
    """What to do about an experiment.

    Args:
        result: the JSON file; what it holds is not run again.
        runs: folder for checkpoints and trained networks.
        data: data set to use in place of the experiment's.
        only: names of the curves to train; all of them if empty.
        say: told of each step.
    """

    result: Path
    runs: Path
    data: str | None = None
    only: Collection[str] = ()
    say: Callable[[str], None] = print


class Results:
    """A result file: one object for each curve. It is read anew before each change, so that several runs may add to it.

    Args:
        path: the JSON file; it need not exist.
        title: of the figure.
        names: of all its curves, in the order in which the file holds them.

    Raises:
        FileError: the file holds something else, or could not be written.
    """

    def __init__(self, path: Path, title: str, names: Sequence[str]) -> None:
        self.path, self.title, self.names = path, title, list(names)
        self._begun: dict[str, tuple[Curve, dict[str, Any]]] = {}
        check_writable(path)
        self._read()

    def begin(self, empty: Curve, usual: dict[str, Any]) -> None:
        """Says what a curve is made with.

        Args:
            empty: the curve before anything was measured: its "name", "config", which is what decides its numbers, and
                the lists that will hold them.
            usual: the defaults of the options in the config.

        Raises:
            ConfigError: the file holds one that was made with another config.
        """
        self._begun[empty["name"]] = (empty, usual)
        self.curve(empty["name"])

    def curve(self, name: str) -> Curve:
        """The curve as the file holds it now; raises ConfigError if it was made with another config."""
        return self._curve(self._read(), name)

    @contextmanager
    def adding(self, name: str) -> Iterator[Curve]:
        """The curve, to which the block adds what it measured; the file is written whole after it.

        Raises:
            ConfigError: the file holds one that was made with another config.
            FileError: the file cannot be written, or holds something else.
        """
        check_writable(self.path)  # the lock's own errors would not name the file
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            curves = self._read()
            yield self._curve(curves, name)
            known = [curves[name] for name in self.names if name in curves]
            write_json(self.path, {"title": self.title, "curves": known})

    def _read(self) -> dict[str, Curve]:
        found = read_json(self.path) if self.path.exists() else {"curves": []}
        try:
            # Settings without a number bind nobody.
            kept = [curve for curve in found["curves"] if curve["config"] is not None and _measured(curve)]
            return {curve["name"]: curve for curve in kept}
        except (KeyError, TypeError) as error:
            raise FileError(f"{self.path} is not a result file: its curves have a name and a config each") from error

    def _curve(self, curves: dict[str, Curve], name: str) -> Curve:
        empty, usual = self._begun[name]
        curve = curves.setdefault(name, deepcopy(empty))
        if not unchanged(curve["config"], empty["config"], as_json(usual)):
            raise ConfigError(f"{self.path} holds {name!r} made with other settings; remove that curve from it")
        return curve


def _measured(curve: Curve) -> bool:
    return bool(curve.get("points") or curve.get("seeds"))


def unchanged(stored: Any, current: Any, usual: Any) -> bool:
    """Whether two configs are one; an option that is newer than the stored one had its default then."""
    if not (isinstance(stored, dict) and isinstance(current, dict)):
        return bool(stored == current)
    usual = usual if isinstance(usual, dict) else {}
    return stored.keys() <= current.keys() and all(
        unchanged(stored[k], v, usual.get(k)) if k in stored else k in usual and v == usual[k]
        for k, v in current.items()
    )


def chosen(configs: Sequence[N], only: Collection[str]) -> list[N]:
    """The curves that `only` names, or all; raises ConfigError for a name that is not there."""
    names = [config.name for config in configs]
    for name in only:
        if name not in names:
            raise ConfigError(unknown("curve", name, names))
    return [config for config in configs if not only or config.name in only]


def check_names(configs: Sequence[Named], path: Path) -> None:
    """Raises ConfigError if two curves have one name."""
    names = [config.name for config in configs]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two curves have the same name")


def as_json(value: Any) -> Any:
    """As it comes back from a JSON file: tuples are lists, keys strings."""
    return json.loads(json.dumps(value))


def make_net(model: ModelConfig, profile: Any, data: ImageData) -> TaperedNet:
    """A new network with a dial that fits a data set."""
    return taper(make_plain(model, data), torch.zeros(1, *data.shape), profile=profile, keep=model.keep)


def make_plain(model: ModelConfig, data: ImageData) -> nn.Module:
    """A new network of the zoo that fits a data set."""
    net = zoo.create(model.name, **{"input_shape": data.shape, "classes": data.classes, **model.arguments})
    if model.imagenet:
        load_imagenet(net)
    return net


def input_spec(data: ImageData, source: str | None) -> InputSpec:
    """How a data set's images are prepared, and where it is found again."""
    return InputSpec(data.mean, data.std, data.class_names, source)


def open_teacher(name: str, spec: InputSpec) -> nn.Module:
    """A saved network that teaches another one.

    Args:
        name: its file, or its name if it comes with the library.
        spec: how the images are prepared on which it will teach.

    Raises:
        FileError: there is no such network.
        ConfigError: it was trained on images that were standardised otherwise, or on other classes.
    """
    teacher, known = load_with_spec(trained.find(name))
    if known is None:
        return teacher
    if known.class_names != spec.class_names:
        raise ConfigError(f"{name} cannot teach here: it knows the classes {', '.join(known.class_names[:5])}, ...")
    gaps = [abs(a - b) for a, b in zip((*known.mean, *known.std), (*spec.mean, *spec.std), strict=True)]
    if max(gaps) > SAME_SCALE:
        raise ConfigError(f"{name} cannot teach here: its images had mean {known.mean} and deviation {known.std}, "
                          f"these have {spec.mean} and {spec.std}")  # fmt: skip
    return teacher


def slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def hardware() -> str:
    """The processor, the cores that this process may use, and torch's version."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (line := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        model = line[1]
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


CODE = ("src", "csrc", "experiments", "CMakeLists.txt", "pyproject.toml", "constraints-cpu.txt")
"""What decides a figure. Result files, which a run changes, are not among it."""


@cache
def commit() -> str | None:
    """The commit of the code, "-dirty" if the code differs from it; None outside a checkout. As at the first call."""
    try:
        root = _git("rev-parse", "--show-toplevel")
        changed = _git("-C", root, "status", "--porcelain", "--", *CODE)
        return _git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def commits(*folders: Path) -> str | None:
    """The commits of all code that worked in folders of runs, the present one last: "4a4d7da+8c03a4f".

    Each folder notes them, since a run that was stopped may go on, or be measured, after the code has changed.
    """
    found: dict[str, None] = {}
    for folder in folders:
        path = folder / "commits"
        older = "unknown" if any(folder.glob("*.safetensors")) else ""  # of a run before such notes
        known = (path.read_text() if path.exists() else older).split()
        if (now := commit()) is not None and now not in known:
            known.append(now)
            write_text(path, "\n".join(known) + "\n")
        found |= dict.fromkeys(known)
    return "+".join(found) or None


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
