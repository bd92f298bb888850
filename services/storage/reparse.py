"""The statements that put another reading of a task's lines into the store. Run by the writer, in one transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from services.errors import LinesRemoved, TaskNotFound
from services.log_entry import encode_frame, to_wire
from services.storage.buckets import SEAL_AFTER, seal, unseal
from services.storage.operations import Committed, Reparse
from services.storage.rows import changed_task_row, entry_from_row, task_from_row
from services.storage.tables import log_entries, metric_points, tasks

_UPDATE_ENTRIES = (
    "UPDATE log_entries SET metrics = {json}, step = {any}, stage = {any} WHERE task_id = {any} AND seq = {any}"
)
_INSERT_POINTS = (
    "INSERT INTO metric_points (task_id, name, seq, epoch, step, value, attempt, at) "
    "VALUES ({any}, {any}, {any}, {any}, {any}, {any}, {any}, {any})"
)
"""Written out, because binding the values of 400,000 rows through SQLAlchemy takes four times as long as the store."""
_ROWS = 10_000
"""In one call, after which other threads certainly get their turn."""

_DELETE_SERIES = delete(metric_points).where(
    metric_points.c.task_id == bindparam("of_task"), metric_points.c.name == bindparam("of_name")
)
_UPDATE_TASK = update(tasks).where(tasks.c.task_id == bindparam("key"))


def write_reparse(connection: Connection, operation: Reparse) -> Committed:
    """Bring lines, points and the task's row in line with the new reading.

    Lines that have been added since the reading was made are read first: the service's own, since the
    task's parser waits. May be run again after a failure.

    Raises:
        TaskNotFound: the task has been deleted meanwhile.
        LinesRemoved: old lines of it have gone meanwhile.
    """
    task_id, rereading = operation.task_id, operation.rereading
    row = connection.execute(select(tasks).where(tasks.c.task_id == task_id)).mappings().one_or_none()
    if row is None:
        raise TaskNotFound(task_id)
    late = (
        select(log_entries)
        .where(log_entries.c.task_id == task_id, log_entries.c.seq > rereading.seq)
        .order_by(log_entries.c.seq)
    )
    rereading.read([entry_from_row(entry) for entry in connection.execute(late).mappings()])
    before = task_from_row(row)
    if before.removed_until is not None:
        raise LinesRemoved(task_id)
    task = Committed(before, rereading.applied_to(before), memory=operation.memory)
    task.rewritten = [encode_frame(entry.seq, to_wire(entry, before.attempt)) for entry in rereading.last]
    _execute_many(connection, _UPDATE_ENTRIES, rereading.changed)
    series = rereading.renewed
    if series:
        connection.execute(_DELETE_SERIES, [{"of_task": task_id, "of_name": name} for name in series])
        unseal(connection, task_id, list(series))
    for points in series.values():
        _execute_many(connection, _INSERT_POINTS, points)
    seal(connection, task_id, [name for name, points in series.items() if len(points) > SEAL_AFTER])
    connection.execute(_UPDATE_TASK, changed_task_row(task))
    return task


def _execute_many(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    is_sqlite = connection.dialect.name == "sqlite"
    text = statement.format(any="?" if is_sqlite else "%s", json="?" if is_sqlite else "%s::json")
    for start in range(0, len(rows), _ROWS):
        connection.exec_driver_sql(text, list(rows[start : start + _ROWS]))
        time.sleep(0)
