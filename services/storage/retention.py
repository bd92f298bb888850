"""How old lines are removed: what may go, and the statements. Those run in the writer's transaction, in small parts.

`tasks.removed_until` says how far a task's log has been removed: of the lines up to it only those are left whose points
are (`services.retention.plans`). It grows with each part, so that what is cut short is taken up where it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, update

from models.schemas import TERMINAL_STATUSES
from services.storage.store import Reader
from services.storage.tables import log_entries, metric_buckets, metric_points, tasks

_ENDED = tasks.c.status.in_([status.value for status in TERMINAL_STATUSES])
_INCREMENTAL = 2


class RetentionStore(Reader):
    """What could go."""

    def due(self, before: datetime) -> list[str]:
        """Tasks that ended before, and have lines beside their last one that have not been looked at; oldest first."""
        query = (
            select(tasks.c.task_id)
            .where(_ENDED, tasks.c.updated_at < before)
            .where(func.coalesce(tasks.c.removed_until, 0) < tasks.c.last_seq - 1)
            .order_by(tasks.c.id)
        )
        with self._reading() as connection:
            return list(connection.scalars(query))

    def series_of(self, task_id: str, names: Iterable[str], below: Sequence[tuple[int, float | None]]) -> set[int]:
        """Lines whose points a summary of these series needs: of each attempt the first, lowest, highest and last one.

        Args:
            below: attempts, each with the epoch from which on a later attempt has done it again.
        """
        lines: set[int] = set()
        columns = metric_points.c
        with self._reading() as connection:
            for name in names:
                for attempt, epoch in below:
                    where = [columns.task_id == task_id, columns.name == name, columns.attempt == attempt]
                    if epoch is not None:
                        where.append(or_(columns.epoch.is_(None), columns.epoch < epoch))
                    ends = select(func.min(columns.seq), func.max(columns.seq)).where(*where)
                    lines |= {seq for seq in connection.execute(ends).one() if seq is not None}
                    for order in (columns.value, columns.value.desc()):
                        extreme = select(columns.seq).where(*where, columns.value.is_not(None))
                        lines |= set(connection.scalars(extreme.order_by(order, columns.seq).limit(1)))
        return lines

    def count(self, task_id: str, until: int, kept: Collection[int]) -> tuple[int, int]:
        """Lines and points that would go."""
        totals = []
        with self._reading() as connection:
            for table in (log_entries, metric_points):
                condition = (table.c.task_id == task_id, table.c.seq <= until, table.c.seq.not_in(kept))
                totals.append(connection.scalar(select(func.count()).select_from(table).where(*condition)) or 0)
        return totals[0], totals[1]


def remove_part(
    connection: Connection, task_id: str, names: Iterable[str], after: int, until: int, kept: Collection[int]
) -> tuple[int, int]:
    """Remove the lines of an ended task between two numbers, but for those that are kept, and their points.

    Returns how many of each. Nothing is removed of a task that has not ended, or not any more.
    """
    if connection.scalar(select(tasks.c.id).where(tasks.c.task_id == task_id, _ENDED)) is None:
        return 0, 0
    inside = [seq for seq in kept if after < seq <= until]

    def between(column: ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
        return column > after, column <= until, column.not_in(inside)

    lines, points = log_entries.c, metric_points.c
    gone = connection.execute(delete(log_entries).where(lines.task_id == task_id, *between(lines.seq))).rowcount
    gone_points = 0
    for name in names:
        of_series = (points.task_id == task_id, points.name == name)
        gone_points += connection.execute(delete(metric_points).where(*of_series, *between(points.seq))).rowcount
    connection.execute(update(tasks).where(tasks.c.task_id == task_id).values(removed_until=until))
    return gone, gone_points


def forget_buckets(connection: Connection, task_id: str) -> None:
    """Of series whose points go."""
    connection.execute(delete(metric_buckets).where(metric_buckets.c.task_id == task_id))


def gives_room_back(connection: Connection) -> bool:
    """Whether free pages can be given back to the disk one by one: of a new store of SQLite they can."""
    if connection.dialect.name != "sqlite":
        return False
    return bool(connection.exec_driver_sql("PRAGMA auto_vacuum").scalar() == _INCREMENTAL)


def give_back(connection: Connection, pages: int) -> int:
    """Give so many free pages of an SQLite file back to the disk; returns how many bytes that were."""
    before = _pages(connection)
    raw = connection.connection.dbapi_connection
    assert raw is not None
    cursor = raw.cursor()
    cursor.execute(f"PRAGMA incremental_vacuum({pages:d})")
    cursor.fetchall()  # a step for each page
    cursor.close()
    size = connection.exec_driver_sql("PRAGMA page_size").scalar()
    return (before - _pages(connection)) * int(size or 0)


def free_pages(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0)


def _pages(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0)
