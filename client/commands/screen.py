"""What commands print: tables for people, one JSON object a line for programs."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic import BaseModel
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.display import printable

NO_TERMINAL_WIDTH = 10_000
"""Columns of a table that goes into a file or a pipe: nothing is folded or cut there."""
STATUS_STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "stopping": "yellow"}


class Screen(Console):
    """Standard output. Colour is for terminals alone, and NO_COLOR (no-color.org) switches it off."""

    def __init__(self) -> None:
        environment = dict(os.environ)
        columns = environment.get("COLUMNS", "")
        if not (is_width := re.fullmatch("0*[1-9][0-9]{0,5}", columns) is not None):
            environment.pop("COLUMNS", None)  # Rich would take it, and print nothing in no columns
        wide = None if sys.stdout.isatty() else int(columns) if is_width else NO_TERMINAL_WIDTH
        super().__init__(width=wide, highlight=False, markup=False, emoji=False, _environ=environment)

    def on_broken_pipe(self) -> NoReturn:
        """Whoever read has seen enough, as `| head` has: `main` ends in silence."""
        raise BrokenPipeError


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """One object in one line, fields that are not set left out: as the API answers."""
    content = value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value
    print(json.dumps(content, ensure_ascii=not _has_every_letter(sys.stdout.encoding)), flush=True)


def _has_every_letter(encoding: str | None) -> bool:
    """Where a letter would become a question mark, JSON has a way to write it in ASCII."""
    return encoding is None or codecs.lookup(encoding).name.startswith("utf-")


def print_line(screen: Console, line: str, style: str = "") -> None:
    """Text that may come from anybody, in one line."""
    if style and screen.is_terminal:
        screen.print(Text(printable(line), style=style), soft_wrap=True)
    else:  # a hundred times as fast, and a log may be long
        print(printable(line), flush=True)


def complain(sentence: str) -> None:
    """What is wrong, on standard error, if there is one: never among what was asked for."""
    if sys.stderr is not None:
        print(printable(sentence), file=sys.stderr)


def print_table(screen: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], *, keep: int = 1) -> None:
    """Columns from left to right in the order of their weight: what a narrow terminal has no room for is left out.

    Args:
        keep: so many columns are always there, and are folded where they must be.
    """
    clean = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *clean, strict=True)]
    count = len(heads)
    while count > keep and sum(widths[:count]) + 2 * (count - 1) > screen.width:
        count -= 1
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for head in heads[:count]:
        table.add_column(head, overflow="fold")
    for row in clean:
        table.add_row(*(_styled(head, cell) for head, cell in zip(heads[:count], row, strict=False)))
    screen.print(table)


def _styled(head: str, cell: str) -> Text:
    return Text(cell, style=STATUS_STYLES.get(cell, "") if head == "status" else "")


def print_fields(screen: Console, fields: dict[str, str]) -> None:
    """Names and values, one below the other."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(printable(name), _styled(name, printable(value)))
    screen.print(table)


def with_rules(heads: Sequence[str]) -> Table:
    """A table with a line below its head."""
    return Table(*heads, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
