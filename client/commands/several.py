"""A picture of several trainings: one row for each."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from client.commands.screen import STATUS_STYLES
from client.display import Board, printable

BAR_WIDTH = 16
NARROW = 70
"""Columns of a terminal that has no room for bars."""


def overview(boards: Sequence[Board], width: int) -> Table:
    """Name, status, progress, epoch and as many of the metrics that most tasks have as there is room for."""
    has_bar = width >= NARROW
    heads = ["task", "status", *(["progress"] if has_bar else []), "%", "epoch"]
    rows = [_place(board, has_bar=has_bar) for board in boards]
    names = list(dict.fromkeys(name for board in boards for name in board.columns))
    names.sort(key=lambda name: -sum(name in board.latest for board in boards))
    room = width - sum(
        max(BAR_WIDTH if head == "progress" else cell_len(head), *(cell_len(_text(row[column])) for row in rows)) + 2
        for column, head in enumerate(heads)
    )
    for name in names:
        cells = [board.shown(name, board.latest[name]) if name in board.latest else "" for board in boards]
        room -= max(len(name), *map(len, cells)) + 2
        if room < 0 or not any(cells):
            break
        heads.append(name)
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    table = Table(*heads, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row)
    return table


def _place(board: Board, *, has_bar: bool) -> list[str | Text | ProgressBar]:
    task = board.task
    status, progress = (str(task.status), task.progress) if task else ("", 0)
    if task is not None and task.queue_position:
        status += f" {task.queue_position}"
    row: list[str | Text | ProgressBar] = [
        Text(printable(board.label), overflow="ellipsis"),
        Text(status, style=STATUS_STYLES.get(status, "")),
    ]
    if has_bar:
        row.append(ProgressBar(total=100, completed=progress, width=BAR_WIDTH))
    epoch = board.latest.get("epoch")
    total = board.latest.get("total_epochs") or (task.total_epochs if task else None) or "?"
    return [*row, f"{progress}", "" if epoch is None else f"{epoch}/{total}"]


def _text(cell: str | Text | ProgressBar) -> str:
    return cell.plain if isinstance(cell, Text) else cell if isinstance(cell, str) else ""
