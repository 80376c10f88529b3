"""Files that are written whole or not at all, and read without running anything in them.

Networks and training checkpoints are safetensors files whose header carries one JSON document; there is no pickle.
"""

import fcntl
import glob
import hashlib
import json
import os
import reprlib
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from tapernet.errors import ConfigError, FileError, TapernetError

HEADER, DIGEST = "tapernet", "sha256"


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Calls `write` on a temporary file beside `path`, then renames it into place.

    A kill or a full disk at any moment leaves either the old file or the new one, never a part. What a killed process
    left behind is removed by the next write. Symbolic links are followed, and an old file's mode is kept.

    Raises:
        FileError: the place is none that `check_writable` accepts, or the disk is full.
    """
    try:
        target, mode = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _part_beside(target) as part:
            write(part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.chmod(mode)
            part.replace(target)
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_writable(path: str | Path, *, beside: Sequence[str] = (), inputs: Sequence[str | Path] = ()) -> None:
    """Raises an error now if `path` could not be written at the end of a long run.

    Args:
        path: the file.
        beside: endings of more files that will be written beside it, under its name.
        inputs: files that are read, and would be lost.

    Raises:
        FileError: a folder, device or pipe of that name; a file that is read-only; a folder that is missing and cannot
            be made, or is not writable; a name that is too long.
        ConfigError: the file has one of the endings, so that another would overwrite it; or it is one of the inputs.
    """
    path = Path(path)
    if path.suffix in beside:
        raise ConfigError(f"{path} needs another ending: a {path.suffix} file is written beside it under its name")
    for place in (path, *(path.with_suffix(suffix) for suffix in beside)):
        try:
            target, _ = _target(place)
            for read in inputs:
                if Path(read).exists() and target.exists() and target.samefile(read):
                    raise ConfigError(f"the output {place} is the file {read} that is read: it would be lost; "
                                      f"give another --output")  # fmt: skip
            target.parent.mkdir(parents=True, exist_ok=True)
            with _part_beside(target):
                pass
        except OSError as error:
            raise _cannot_write(place, error) from error


def _target(path: str | Path) -> tuple[Path, int]:
    """The file that a path leads to, and the mode that it has or will have."""
    try:
        target = Path(os.path.realpath(path))
        found = target.stat() if target.exists() else None
    except ValueError as error:  # a name with NUL
        raise FileError(f"cannot write {path!r}: {error}") from error
    if found is None:
        mask = os.umask(0)
        os.umask(mask)
        return target, 0o666 & ~mask
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file, but a device, pipe or socket"
        raise FileError(f"cannot write {path}: it is {kind}")
    if not found.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise FileError(f"cannot write {path}: it is read-only")
    return target, stat.S_IMODE(found.st_mode)


@contextmanager
def _part_beside(target: Path) -> Iterator[Path]:
    """A temporary file that is gone afterwards; those of processes that were killed go, too.

    A lock, which ends with its process, tells whether somebody still writes.
    """
    prefix = f".{target.name[:60]}."
    for left in target.parent.glob(f"{glob.escape(prefix)}*.part"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=".part")
        part = Path(name)
        try:
            with open(handle, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(handle).st_nlink:  # else another process took it for a dead one's before it was locked
                    yield part
                    return
        finally:
            part.unlink(missing_ok=True)


def _cannot_write(path: str | Path, error: OSError) -> FileError:
    return error if isinstance(error, FileError) else FileError(f"cannot write {path}: {error.strerror or error}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder that no other process works in, for the block; a process that was killed holds no lock.

    Raises:
        ConfigError: another process works in it.
        FileError: it cannot be written.
    """
    check_writable(folder / ".lock")
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(f"another run works in {folder}: wait for its end, or choose another folder") from error
    try:
        yield
    finally:
        lock.release()


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
    except (OSError, ValueError, RecursionError) as error:  # too many digits or levels are such errors, too
        raise FileError(f"cannot read {path}: {error}") from error


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turns whatever wrong fields lead to in the block into a FileError: "PATH does not hold a WHAT: ..."."""
    try:
        yield
    except (
        TapernetError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        detail = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise FileError(f"{path} does not hold a {what}: {detail}") from error


def header_field(header: Mapping[str, Any], name: str, *kinds: type | None) -> Any:
    """A value of a header that is of one of these types, None standing for itself.

    Raises:
        FileError: it is missing or of another type.
    """
    value = header.get(name)
    if name not in header or not any(value is None if k is None else type(value) is k for k in kinds):
        expected = " or ".join("null" if kind is None else kind.__name__ for kind in kinds)
        raise FileError(f"{name} is {expected}, not {reprlib.repr(value)}")
    return value


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes named tensors and a JSON header as one safetensors file with a digest of both, atomically."""
    # One tensor may be a view of another's memory (a prefix); safetensors wants each on its own.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    # One entry alone, as safetensors writes several in an order of its own each time.
    text = json.dumps({**header, DIGEST: _digest(plain, header)})
    data = tensors_to_bytes(plain, metadata={HEADER: text})
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
        FileError: missing, truncated, not a safetensors file, not written by this library, of another kind, of a future
            version, or changed since it was written (files of before there were digests are taken as they are).
    """
    if Path(path).is_dir():
        raise FileError(f"{path} is a folder, not a file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise FileError(f"no such file: {path}") from error
    except (OSError, SafetensorError, ValueError, RuntimeError, MemoryError) as error:
        raise FileError(f"{path} is not a whole safetensors file: {error}") from error
    try:
        header = json.loads(metadata[HEADER])
        found_kind, found_version = header["kind"], header_field(header, "version", int)
        digest = header.pop(DIGEST, None)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, FileError) as error:
        raise FileError(f"{path} is a safetensors file, but was not written by tapernet: {error}") from error
    if digest is not None and digest != _digest(tensors, header):
        raise FileError(f"{path} has changed since it was written: its digest is another one")
    kinds = (kind,) if isinstance(kind, str) else kind
    if found_kind not in kinds:
        raise FileError(f"{path} is a file of kind {found_kind!r}, not {kinds[0]!r}")
    if found_version > version:
        raise FileError(f"{path} has format version {found_version}; this tapernet reads up to {version}: upgrade it")
    return tensors, header


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(header).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
