"""One HTML page of figures and tables that needs no other file."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tapernet.files import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
body { color: #222; background: #fff }
img { max-width: 100% } pre { font-size: 12px; line-height: 1.25; overflow-x: auto } .missing { color: #777 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } img { background: #fff } }
"""


@dataclass(frozen=True)
class Section:
    """A figure on the page.

    Args:
        title: above it.
        picture: of the figure, PNG.
        tables: of rich.
        notes: below them, a paragraph each.
    """

    title: str
    picture: bytes
    tables: Sequence[Any]
    notes: Sequence[str]


def write_page(path: str | Path, sections: Sequence[Section], title: str = "Results") -> None:
    """Writes the page, atomically; pictures are inside it."""
    links = "".join(f'<li><a href="#s{i}">{escape(s.title)}</a></li>' for i, s in enumerate(sections))
    body = "".join(f'<section id="s{i}">{_section(s)}</section>' for i, s in enumerate(sections))
    write_text(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><ul>{links}</ul>{body}</body></html>\n",
    )


def _section(section: Section) -> str:
    data = base64.b64encode(section.picture).decode()
    picture = f'<img alt="{escape(section.title)}" src="data:image/png;base64,{data}">'
    notes = "".join(f'<p class="missing">{escape(note)}</p>' for note in section.notes)
    return f"<h2>{escape(section.title)}</h2>{picture}{''.join(map(_table, section.tables))}{notes}"


def _table(table: Any) -> str:
    from rich.console import Console

    console = Console(record=True, file=io.StringIO(), width=150)
    console.print(table)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
