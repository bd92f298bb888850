"""Events that are no lines of a log: they have a table of their own, and one order with the lines of all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, func, insert, select

from services.storage.operations import Notice
from services.storage.tables import log_entries, notices

RESET: Final = "reset"
"""The lines of the task were read again: what was known of its metrics is void."""
DELETED: Final = "deleted"
"""The task and its lines are gone."""
ALERT: Final = "alert"
"""A rule has fired."""


def last_row(connection: Connection) -> int:
    """The last line that there ever was, of any task. Where lines were deleted with their task, a notice came after."""
    rows = select(func.max(log_entries.c.id)).union_all(select(func.max(notices.c.after_row)))
    return max(row or 0 for row in connection.scalars(rows))


def insert_notice(connection: Connection, task_id: str, kind: str, data: Mapping[str, Any]) -> Notice:
    """Store a notice behind every line so far. In the writer's transaction, before lines that it inserts or deletes."""
    after_row = last_row(connection)
    row = {
        "after_row": after_row,
        "task_id": task_id,
        "kind": kind,
        "data": dict(data),
        "created_at": datetime.now(UTC),
    }
    key = connection.execute(insert(notices), row).inserted_primary_key
    assert key is not None
    return Notice(key[0], after_row, task_id, kind, data)
