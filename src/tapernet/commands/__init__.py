"""The subcommands of `tapernet`: one file each, one line here.

A command is a function; its parameters are the options, its docstring the help.
"""

from typing import Any

from tapernet.commands.evaluate import evaluate
from tapernet.commands.report import report
from tapernet.commands.reproduce import reproduce
from tapernet.commands.train import train
from tapernet.commands.zoo import zoo

COMMANDS: dict[str, Any] = {
    "train": train,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "report": report,
    "zoo": zoo,
}
