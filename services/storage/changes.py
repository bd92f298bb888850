"""What another process has committed since: the reads of a replica, each of one moment of the store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from models.schemas import TERMINAL_STATUSES
from services.log_entry import LogEntry
from services.storage.notices import last_row
from services.storage.operations import Notice
from services.storage.rows import entry_from_row, state_columns, task_from_row
from services.storage.store import Reader
from services.storage.tables import log_entries, notices, tasks
from services.task_state import TaskState

MOST_LINES = 5_000
"""In one look. Of more than these nothing is read but how far they go."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Attributes:
    row, notice, task: the last of each that there is.
    is_whole: whether lines and notices are here; else there are too many.
    states: of the tasks that these are about, of new ones and, where it is not whole, of all that were asked about or
        have not ended. A task without a state has been deleted.
    """

    row: int
    notice: int
    task: int
    is_whole: bool
    lines: Sequence[tuple[int, LogEntry]]
    notices: Sequence[Notice]
    states: dict[str, TaskState]


class ChangeStore(Reader):
    """Looks at all tables as of one moment (PostgreSQL: REPEATABLE READ)."""

    def read(self, row: int, notice: int, task: int, known: Collection[str], *, whole: bool = True) -> Changes | None:
        """What is new behind these three; `None` where nothing is.

        Args:
            known: tasks about which is asked where there is too much to read, or not `whole`.

        Raises:
            StorageUnavailable: the store cannot be read.
        """
        with self._reading() as connection:
            snapshot = connection.execution_options(isolation_level="REPEATABLE READ")
            with snapshot.begin():
                last = (
                    last_row(snapshot),
                    snapshot.scalar(select(func.max(notices.c.id))) or 0,
                    snapshot.scalar(select(func.max(tasks.c.id))) or 0,
                )
                if whole and last == (row, notice, task):
                    return None
                if whole and last[0] - row <= MOST_LINES and last[1] - notice <= MOST_LINES:
                    return _whole(snapshot, (row, notice, task), last)
                living = tasks.c.status.not_in([status.value for status in TERMINAL_STATUSES])
                query = select(*state_columns()).where(or_(living, tasks.c.task_id.in_(known)))
                states = {each["task_id"]: task_from_row(each) for each in snapshot.execute(query).mappings()}
                return Changes(*last, is_whole=False, lines=(), notices=(), states=states)


def _whole(snapshot: Connection, after: tuple[int, int, int], last: tuple[int, int, int]) -> Changes:
    row, notice, task = after
    query = select(log_entries).where(log_entries.c.id > row, log_entries.c.id <= last[0]).order_by(log_entries.c.id)
    lines = [(each["id"], entry_from_row(each)) for each in snapshot.execute(query).mappings()]
    columns = (notices.c.id, notices.c.after_row, notices.c.task_id, notices.c.kind, notices.c.data)
    told = [
        Notice(*each) for each in snapshot.execute(select(*columns).where(notices.c.id > notice).order_by(notices.c.id))
    ]
    about = {entry.task_id for _, entry in lines} | {each.task_id for each in told}
    of_these = select(*state_columns()).where(or_(tasks.c.task_id.in_(about), tasks.c.id > task))
    states = {each["task_id"]: task_from_row(each) for each in snapshot.execute(of_these).mappings()}
    return Changes(*last, is_whole=True, lines=lines, notices=told, states=states)
