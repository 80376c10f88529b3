"""The `tapernet` command."""

import sys
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import auto_cli, auto_parser

from tapernet.commands import COMMANDS
from tapernet.config import explain
from tapernet.errors import TapernetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when all went well, 2 for an error that the message explains, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        auto_cli(COMMANDS, args=given, prog="tapernet", exit_on_error=False)
    except ArgumentError as error:
        return _fail(explain(str(error), _options(given)))
    except TapernetError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("tapernet: interrupted; with a run_dir, the same command goes on", file=sys.stderr)
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"tapernet: error: {message}", file=sys.stderr)
    return 2


def _options(given: Sequence[str]) -> list[str]:
    """The keys that the subcommand takes."""
    if not given or given[0] not in COMMANDS:
        return []
    return list(auto_parser(COMMANDS[given[0]]).get_defaults().keys())


if __name__ == "__main__":
    sys.exit(main())
