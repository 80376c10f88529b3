"""The `tapernet` command."""

import json
import sys
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import auto_cli, auto_parser

import tapernet
from tapernet.commands import COMMANDS, WORDS
from tapernet.config import explain
from tapernet.errors import TapernetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when all went well, 2 for an error that the message explains, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"tapernet {tapernet.__version__}")
        return 0
    try:
        auto_cli(COMMANDS, args=_gathered(given), prog="tapernet", exit_on_error=False, allow_abbrev=False)
    except ArgumentError as error:
        return _fail(explain(str(error), _options(given)))
    except TapernetError as error:
        return _fail(str(error))
    except ValueError as error:  # jsonargparse's, around the error of an option that may also be null
        if not isinstance(error.__cause__, TapernetError):
            raise
        return _fail(str(error.__cause__))
    except KeyboardInterrupt:
        print("tapernet: interrupted; with a run_dir, the same command goes on", file=sys.stderr)
        return 130
    return 0


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
