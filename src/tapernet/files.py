"""Files that are written whole or not at all, and read without running anything in them.

Networks and training checkpoints are safetensors files whose header carries one JSON document; there is no pickle.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from tapernet.errors import ConfigError, FileError

HEADER = "tapernet"


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Calls `write` on a temporary file beside `path`, then renames it into place.

    A kill or a full disk at any moment leaves either the old file or the new one, never a part. A part file that a
    kill left behind is removed by nobody, and read by nobody.

    Raises:
        FileError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    part = Path(name)
    try:
        os.close(handle)
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: str | Path, *, beside: Sequence[str] = ()) -> None:
    """Raises an error now if `path` could not be written at the end of a long run.

    Args:
        path: the file.
        beside: endings of more files that will be written beside it, under its name.

    Raises:
        FileError: a folder of that name, or one that is missing or not writable.
        ConfigError: the file has one of the endings, so that another would overwrite it.
    """
    path = Path(path)
    if path.suffix in beside:
        raise ConfigError(f"{path} needs another ending: a {path.suffix} file is written beside it under its name")
    for suffix in beside:
        if path.with_suffix(suffix).is_dir():
            raise FileError(f"cannot write {path.with_suffix(suffix)}: it is a folder")
    if path.is_dir():
        raise FileError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    write_atomically(path, lambda part: _write(part, text.encode()))


def write_json(path: str | Path, value: Any) -> None:
    """Writes an indented JSON file atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file; raises FileError if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}") from error


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes named tensors and a JSON header as one safetensors file, atomically."""
    # One tensor may be a view of another's memory (a prefix); safetensors wants each on its own.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    data = tensors_to_bytes(plain, metadata={HEADER: json.dumps(header)})
    write_atomically(path, lambda part: _write(part, data))


def read_tensors(
    path: str | Path, *, kind: str | tuple[str, ...], version: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and header that `write_tensors` wrote.

    Args:
        path: the file.
        kind: what the header must call itself under "kind"; of several, the first is the current name.
        version: the newest format version that the caller understands.

    Raises:
        FileError: missing, truncated, not a safetensors file, not written by this library, of another kind, or of a
            future version.
    """
    if Path(path).is_dir():
        raise FileError(f"{path} is a folder, not a file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise FileError(f"no such file: {path}") from error
    except (OSError, SafetensorError) as error:
        raise FileError(f"{path} is not a whole safetensors file: {error}") from error
    try:
        header = json.loads(metadata[HEADER])
        found_kind, found_version = header["kind"], int(header["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is a safetensors file, but was not written by tapernet") from error
    kinds = (kind,) if isinstance(kind, str) else kind
    if found_kind not in kinds:
        raise FileError(f"{path} is a file of kind {found_kind!r}, not {kinds[0]!r}")
    if found_version > version:
        raise FileError(f"{path} has format version {found_version}; this tapernet reads up to {version}: upgrade it")
    return tensors, header


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
