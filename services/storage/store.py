"""Reads of the store. Any thread may call them; each uses a pooled connection of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.schemas import TERMINAL_STATUSES, TaskStatus
from services.errors import StorageUnavailable
from services.log_entry import LogEntry
from services.parsing import Memory
from services.storage.database import Database
from services.storage.reading import ReadOnlyDatabase
from services.storage.rows import entry_from_row, task_from_row
from services.storage.tables import device_limits, is_rare, log_entries, tasks, upper_level
from services.task_state import TaskState

logger = logging.getLogger(__name__)


class Reader:
    """What reads have in common."""

    def __init__(self, database: Database | ReadOnlyDatabase) -> None:
        self._engine = database.engine

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except (DBAPIError, PoolTimeout) as error:
            logger.error("The store cannot be read: %s", error)
            raise StorageUnavailable("The store cannot be read at present; the log of the service says why.") from error


class Store(Reader):
    """What is committed: tasks and their lines."""

    def get_task(self, task_id: str) -> TaskState | None:
        found = self._tasks(select(tasks).where(tasks.c.task_id == task_id))
        return found[0][1] if found else None

    def has_output_dir(self, folder: Path) -> bool:
        """Whether a task saves there, by whichever of its names."""
        names = {str(folder), str(folder.resolve())}
        with self._reading() as connection:
            return connection.scalar(select(tasks.c.id).where(tasks.c.output_dir.in_(names)).limit(1)) is not None

    def list_tasks(
        self, *, status: Sequence[TaskStatus] = (), before: int | None = None, limit: int | None = None
    ) -> list[tuple[int, TaskState]]:
        """Newest first, each with its row id: the cursor `before` of the next page."""
        query = select(tasks).order_by(tasks.c.id.desc()).limit(limit)
        if status:
            query = query.where(tasks.c.status.in_([each.value for each in status]))
        if before is not None:
            query = query.where(tasks.c.id < before)
        return self._tasks(query)

    def count_tasks(self) -> int:
        with self._reading() as connection:
            return connection.scalar(select(func.count()).select_from(tasks)) or 0

    def count_by_status(self) -> dict[str, int]:
        with self._reading() as connection:
            query = select(tasks.c.status, func.count().label("total")).group_by(tasks.c.status)
            return {row.status: row.total for row in connection.execute(query)}

    def active_tasks(self) -> list[TaskState]:
        """Tasks that have not ended, oldest first."""
        terminal = [status.value for status in TERMINAL_STATUSES]
        return [state for _, state in self._tasks(select(tasks).where(tasks.c.status.not_in(terminal)).order_by("id"))]

    def read_entries(
        self,
        task_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        level: str | None = None,
        stage: str | None = None,
        contains: str | None = None,
    ) -> list[LogEntry]:
        """Lines with a sequence number above `after`, oldest first; or those below `before`, newest first.

        Args:
            contains: only lines with this text, in small or capital letters.
        """
        entries = log_entries.c
        query = select(log_entries).where(entries.task_id == task_id, entries.seq > after).order_by(entries.seq)
        if before is not None:
            query = query.where(entries.seq < before).order_by(None).order_by(entries.seq.desc())
        if contains is not None:
            query = query.where(entries.message.icontains(contains, autoescape=True))
        if level is not None:
            query = query.where(upper_level == level.upper())
            query = query if level.upper() == "INFO" else query.where(is_rare)
        if stage is not None:
            query = query.where(entries.stage == stage)
        with self._reading() as connection:
            return [entry_from_row(row) for row in connection.execute(query.limit(limit)).mappings()]

    def read_progress(self, task_id: str) -> tuple[int, Memory | None]:
        """Bytes of a trainer's output whose lines are stored, and the parser's memory after them."""
        query = select(tasks.c.log_position, tasks.c.parser_memory).where(tasks.c.task_id == task_id)
        with self._reading() as connection:
            position, memory = connection.execute(query).one()
        return position or 0, None if memory is None else Memory.from_json(memory)

    def device_limits(self) -> dict[str, int]:
        """Limits of devices that were set while the service ran."""
        query = select(device_limits.c.device, device_limits.c.limit)
        with self._reading() as connection:
            return {row.device: row.limit for row in connection.execute(query)}

    def _tasks(self, query: Select[tuple[object, ...]]) -> list[tuple[int, TaskState]]:
        with self._reading() as connection:
            return [(row["id"], task_from_row(row)) for row in connection.execute(query).mappings()]
