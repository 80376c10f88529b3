"""Options from YAML files and the command line, read by jsonargparse; and its errors in words that name the choices."""

import re
from argparse import ArgumentError
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from tapernet.errors import ConfigError, FileError
from tapernet.registry import unknown
from tapernet.train.recipes import Recipe

C = TypeVar("C")
UNION = re.compile(r'key "([^"]+)": Does not validate.*?Subtypes: \[(.+?)\] Errors:.*Given value: (.*)')
"""jsonargparse's message for a value that is of none of an option's types."""
RECIPE_OR_NULL = re.compile(r"Does not validate.*?Recipe\'>, .*? Errors: - (.*?) - Expected a .*")
"""The same for a recipe, where what is wrong with it is all that matters."""


def read_yaml(kind: type[C], path: Path) -> C:
    """The dataclass `kind` from a YAML file.

    Args:
        kind: a dataclass whose fields are the file's keys.
        path: <folder>/<paper>/<figure>.yaml; if it is missing, the message lists the others of that folder.

    Raises:
        FileError: the file is missing.
        ConfigError: an unknown key or a bad value; the message names it.
    """
    _check_keys(kind, read_mapping(path), str(path))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        return kind(**vars(parser.instantiate(parser.parse_path(str(path)))))
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {explain(str(error))}") from error


def read_kind(path: Path, default: str) -> str:
    """What a YAML file says under "kind"; raises FileError or ConfigError if it is missing or no mapping."""
    return str(read_mapping(path).get("kind", default))


def read_curve_names(path: Path) -> list[str]:
    """The names of an experiment's curves, whatever its kind; raises as `read_kind`."""
    curves = read_mapping(path).get("curves") or []
    return [str(curve["name"]) for curve in curves if isinstance(curve, dict) and "name" in curve]


def read_mapping(path: Path) -> dict[str, Any]:
    """What a YAML file holds; raises FileError or ConfigError if it is missing or no mapping."""
    _check_exists(path)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} does not hold an experiment")
    return value


def _check_keys(kind: Any, value: Any, where: str) -> None:
    """Raises ConfigError for the first key, at any depth, that is no field of its dataclass.

    jsonargparse finds it too, but where a value may be of several types it tells only that it is of none of them.
    """
    if isinstance(value, list):
        for i, one in enumerate(value):
            for part in get_args(kind):
                _check_keys(part, one, f"{where}[{i}]")
    elif is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        for key, inner in value.items():
            if key not in hints:
                raise ConfigError(f"{where}: {unknown('key', str(key), hints)}")
            _check_keys(hints[key], inner, f"{where}: {key}")
    elif isinstance(kind, UnionType):
        for part in get_args(kind):
            _check_keys(part, value, where)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        known: list[str] = []
        for root in (path.parent, *path.parents[1:2]):  # the name may lack its <paper>
            known = known or sorted(str(p.relative_to(root).with_suffix("")) for p in root.glob("*/*.yaml"))
        raise FileError(f"no such file: {path}; in that folder: {', '.join(known) or 'none'}")


def explain(message: str, options: Iterable[str] = ()) -> str:
    """A parser's message; where it is about a name that does not exist, with the names that do.

    Args:
        message: jsonargparse's own.
        options: keys that the command takes, "settings.lr" and the like.
    """
    recipes = {kind.__name__: kind for kind in Recipe.__subclasses__()}
    message = RECIPE_OR_NULL.sub(r"\1", " ".join(message.split()))
    if "Recipe is abstract" in message:
        return f"an option of a recipe needs the recipe's name: --recipe {' | '.join(recipes)}"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return unknown("recipe", found[1], recipes)
    if found := re.search(r"class_path '[\w.]*?(\w+)':\s+(?:Option|Key) '(\w+)' is not (?:accepted|expected)", message):
        valid = [f.name for f in fields(recipes[found[1]])] if found[1] in recipes else []  # type: ignore[arg-type]
        return unknown(f"option of {found[1]}", found[2], valid)
    if found := UNION.search(message):
        kinds = re.sub(r"<class '(\w+)'>", r"\1", found[2]).replace("NoneType", "null")
        return f"{found[1]}: {found[3]} is none of {kinds}"
    if found := re.search(r"unrecognized arguments: --(\S+)|does not accept option '(\S+)'", message):
        return unknown("option", (found[1] or found[2]).split("=")[0], options)
    return message
