"""Comparing what is stored with what clients have been told. Pure functions; each problem is a sentence."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.crash.ledger import TERMINAL, Ledger, Promise, Task

_LEVEL = re.compile(r"^(?:DEBUG|WARNING|ERROR|CRITICAL): ")
"""How the built-in trainer begins a line that is not INFO; the service takes it off."""
_NOT_SHOWN = "Stopped: the last "
"""How the service begins the line that says that it has not read a stopped trainer's output to its end."""


def compare(task: Task, history: Sequence[Mapping[str, Any]], printed: str | None) -> Iterator[str]:
    """Problems of an ended task.

    Args:
        history: its lines as the service answers them.
        printed: the output of its trainer; `None` where the trainer is no process, or never began.
    """
    numbers = [entry["id"] for entry in history]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its lines are numbered {_in_short(numbers)}"
    stored = {entry["id"]: (entry["level"], entry["message"], entry.get("status")) for entry in history}
    yield from differences(task, stored)
    if history and history[-1].get("status") not in TERMINAL:
        yield f"its last line does not end it: {history[-1]}"
    if printed is not None:
        is_cut = any(entry["message"].startswith(_NOT_SHOWN) for entry in history)
        yield from _printed_once([entry["message"] for entry in history], printed, is_cut=is_cut)
    if task.total is not None and task.end is not None and not (task.stop_asked or task.trainer_killed):
        count = sum(entry["message"].startswith("line ") for entry in history)
        if count != task.total:
            yield f"it printed {task.total} lines before it ended, {count} are stored"


def differences(task: Task, stored: Mapping[int, tuple[str, str, str | None]]) -> Iterator[str]:
    """Lines that a viewer has seen and that are gone, or read otherwise now."""
    for number, line in task.lines.items():
        if number not in stored:
            yield f"line {number} was seen and is gone: {line}"
        elif stored[number] != line:
            yield f"line {number} was {line} and is {stored[number]}"


def _printed_once(messages: Sequence[str], printed: str, *, is_cut: bool) -> Iterator[str]:
    """Whether every printed line is among the messages, as often and in the order in which it was printed."""
    lines = [_LEVEL.sub("", line) for line in printed.split("\n") if line]
    ours = set(lines)
    found = [message for message in messages if message in ours]
    wanted = lines[: len(found)] if is_cut else lines
    if found != wanted:
        where = next((n for n, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), len(found))
        yield (
            f"{len(wanted)} lines were printed and {len(found)} are stored; the first that differs is number "
            f"{where + 1}: printed {wanted[where : where + 1]}, stored {found[where : where + 1]}"
        )


def check_store(path: Path, ledger: Ledger) -> Iterator[tuple[Promise, str]]:
    """Problems of a store that no service has open: is it whole, and does it hold what clients were told?"""
    with closing(sqlite3.connect(path)) as store:
        yield from ((Promise.INTEGRITY, problem) for problem in damage(store))
        try:
            yield from _forgotten(store, ledger)
        except sqlite3.DatabaseError as error:
            yield Promise.INTEGRITY, f"it cannot be read: {error}"


def _forgotten(store: sqlite3.Connection, ledger: Ledger) -> Iterator[tuple[Promise, str]]:
    last = dict(store.execute("SELECT task_id, last_seq FROM tasks"))
    for task in ledger.tasks.values():
        if task.task_id not in last:
            if task.acknowledged and not task.deletion_asked:
                yield Promise.TASKS, f"{task.task_id}, {task.kind}, is not in the store"
            continue
        if task.deletion_acknowledged:
            yield Promise.ANSWERS, f"{task.task_id} was deleted, and is in the store"
        query = "SELECT seq, level, message, status FROM log_entries WHERE task_id = ? ORDER BY seq"
        rows = store.execute(query, (task.task_id,)).fetchall()
        numbers = [row[0] for row in rows]
        if numbers != list(range(1, last[task.task_id] + 1)):
            yield Promise.LINES, f"{task.task_id} has {last[task.task_id]} lines, stored are {_in_short(numbers)}"
        stored = {row[0]: (row[1], row[2], _as_shown(row[3])) for row in rows}
        yield from ((Promise.LINES, f"{task.task_id}: {problem}") for problem in differences(task, stored))


def damage(store: sqlite3.Connection) -> Iterator[str]:
    """What SQLite itself finds wrong."""
    try:
        for (said,) in store.execute("PRAGMA integrity_check"):
            if said != "ok":
                yield said
        for row in store.execute("PRAGMA foreign_key_check"):
            yield f"a row without its task: {row}"
    except sqlite3.DatabaseError as error:
        yield str(error)


def _as_shown(status: str | None) -> str | None:
    """Every change of status is stored with its line; clients are shown the last one only."""
    return status if status in TERMINAL else None


def _in_short(numbers: Iterable[int]) -> str:
    """Numbers as ranges: `1-4, 6-9`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{first}-{last}" for first, last in ranges) or "none"
