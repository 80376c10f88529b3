"""The subcommands of `tapernet`: one file each, one line here.

A command is a function; its parameters are the options, its docstring the help.
"""

from typing import Any

from tapernet.commands.bench import bench
from tapernet.commands.cam import cam
from tapernet.commands.cascade import cascade
from tapernet.commands.evaluate import evaluate
from tapernet.commands.extract import extract
from tapernet.commands.maps import maps
from tapernet.commands.report import report
from tapernet.commands.reproduce import reproduce
from tapernet.commands.search import search
from tapernet.commands.terminate import terminate
from tapernet.commands.train import train
from tapernet.commands.zoo import zoo

COMMANDS: dict[str, Any] = {
    "train": train,
    "evaluate": evaluate,
    "extract": extract,
    "search": search,
    "cascade": cascade,
    "terminate": terminate,
    "reproduce": reproduce,
    "report": report,
    "bench": bench,
    "cam": cam,
    "maps": maps,
    "zoo": zoo,
}

WORDS = {"cam": "images", "maps": "images", "report": "figures"}
"""The option of a command that takes the words right after it, as in `tapernet cam one.png two.png`."""
