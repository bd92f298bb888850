"""Reads of all tasks' lines and notices, in the order in which they were committed."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select

from services.log_entry import LogEntry
from services.storage.notices import ALERT, DELETED, last_row
from services.storage.operations import Notice
from services.storage.rows import entry_from_row
from services.storage.store import Reader
from services.storage.tables import log_entries, notices


class EventStore(Reader):
    """What is committed, seen as one sequence."""

    def last_event(self) -> tuple[int, int]:
        """The last line and the last notice that there ever were."""
        with self._reading() as connection:
            return last_row(connection), connection.scalar(select(func.max(notices.c.id))) or 0

    def count_alerts(self) -> dict[str, int]:
        """How often alerts have fired for each task, since there was none of its id."""
        query = select(notices.c.task_id, notices.c.kind).where(notices.c.kind.in_((ALERT, DELETED)))
        counts: dict[str, int] = {}
        with self._reading() as connection:
            for task_id, kind in connection.execute(query.order_by(notices.c.id)):
                if kind == ALERT:
                    counts[task_id] = counts.get(task_id, 0) + 1
                else:
                    counts.pop(task_id, None)
        return counts

    def read_lines(self, after: int, until: int, task_ids: Collection[str], limit: int) -> list[tuple[int, LogEntry]]:
        """Lines, of these tasks or of all, with rows above `after` and up to `until`, each with its row."""
        query = select(log_entries).where(log_entries.c.id > after, log_entries.c.id <= until)
        if task_ids:
            query = query.where(log_entries.c.task_id.in_(task_ids))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(log_entries.c.id).limit(limit)).mappings()
            return [(row["id"], entry_from_row(row)) for row in rows]

    def read_notices(self, after: int, until: int, until_row: int) -> list[Notice]:
        """Notices above `after` and up to `until` that came no later than the line `until_row`."""
        columns = (notices.c.id, notices.c.after_row, notices.c.task_id, notices.c.kind, notices.c.data)
        query = select(*columns).where(notices.c.id > after, notices.c.id <= until, notices.c.after_row <= until_row)
        with self._reading() as connection:
            return [Notice(*row) for row in connection.execute(query.order_by(notices.c.id))]
