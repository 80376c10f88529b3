"""The `tapernet` command."""

import errno
import json
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import auto_cli, auto_parser

import tapernet
from tapernet.commands import COMMANDS, WORDS
from tapernet.config import explain
from tapernet.engine.native import described_kernels
from tapernet.errors import FileError, TapernetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0 when all went well, 2 for an error that the message explains, 130 when interrupted, 1 when whoever read the
        output has gone.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (until the end of the process)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _without_output(1)
    except OSError as error:
        if isinstance(error, FileError) or error.errno != errno.ENOSPC:
            raise
        return _without_output(_fail("the output cannot be written: no space left on device"))
    return code


def _without_output(code: int) -> int:
    """What is left of the output goes nowhere, so that Python's own end finds nothing to write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"tapernet {tapernet.__version__}, {described_kernels()}")
        return 0
    try:
        auto_cli(COMMANDS, args=_gathered(given), prog="tapernet", exit_on_error=False, allow_abbrev=False)
    except KeyboardInterrupt:
        print("tapernet: interrupted; with a run_dir, the same command goes on", file=sys.stderr)
        return 130
    except Exception as error:
        message = _explained(error, given)
        if message is None:
            raise
        return _fail(message)
    return 0


def _explained(error: Exception, given: Sequence[str]) -> str | None:
    """An error in the user's words; None for one that is a fault of this library."""
    message: str | None = None
    match error:
        case ArgumentError():
            message = explain(str(error), _options(given))
        case TapernetError():
            message = str(error)
        case UnicodeDecodeError():
            message = f"a file of options is not UTF-8: {error}"
        case ValueError() if isinstance(error.__cause__, TapernetError):
            message = str(error.__cause__)  # jsonargparse's, around the error of an option that may also be null
        case MemoryError():
            message = f"there is not enough memory: {error}"
        case RuntimeError() if "can't allocate memory" in str(error):
            message = f"there is not enough memory: {str(error).splitlines()[0]}"
    return message


def _fail(message: str) -> int:
    print(f"tapernet: error: {message}", file=sys.stderr)
    return 2


def _gathered(given: Sequence[str]) -> list[str]:
    """The words right after a command that takes several, as the one list that the parser reads."""
    option = WORDS.get(given[0]) if given else None
    if option is None:
        return list(given)
    end = next((i for i, word in enumerate(given) if word.startswith("-")), len(given))
    words = [f"--{option}={json.dumps(given[1:end])}"] if end > 1 else []
    return [given[0], *words, *given[end:]]


def _options(given: Sequence[str]) -> list[str]:
    """The keys that the subcommand takes, as a user writes them."""
    if not given or given[0] not in COMMANDS:
        return ["help", "config"]
    keys = auto_parser(COMMANDS[given[0]]).get_defaults().keys()
    return [key.removesuffix(".class_path").replace(".init_args.", ".") for key in keys]


if __name__ == "__main__":
    sys.exit(main())
