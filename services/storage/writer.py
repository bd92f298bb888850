"""The one thread that writes.

It takes whatever has gathered in its bounded queue, folds it into the task states, and commits lines,
metric points and task rows in one transaction (group commit). Only then are waiters answered and lines
published, so nothing that anybody has seen can be lost by a crash. When the store refuses, the batch is
kept and tried again, the queue fills, and those who bring lines wait: nothing is dropped to keep going.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError, StatementError

from services.errors import StorageUnavailable, StoreInUse, TaskConflict
from services.log_entry import LogEntry, encode_frame, to_wire
from services.storage.database import Database
from services.storage.rows import changed_task_row, entry_row, new_task_row, point_rows
from services.storage.tables import log_entries, metric_points, tasks
from services.task_state import TaskState

logger = logging.getLogger(__name__)

MAX_BATCH = 2_000
UNSTORABLE = "This line could not be stored; the log of the service says why."
RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0)

_INSERT_TASK = insert(tasks)
_INSERT_ENTRY = insert(log_entries)
_INSERT_POINT = insert(metric_points)
_UPDATE_TASK = update(tasks).where(tasks.c.task_id == bindparam("key"))


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Insert a task without lines."""

    state: TaskState


@dataclass(frozen=True, slots=True)
class DeleteTask:
    """Remove an ended task, its lines and its points."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Flush:
    """Change nothing: its future says that everything before it is committed."""


Operation = LogEntry | CreateTask | DeleteTask | Flush


@dataclass(slots=True)
class Committed:
    """What one transaction did to one task: its state now, the lines that led there, and their frames."""

    state: TaskState
    entries: list[LogEntry] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Pending:
    operation: Operation
    done: Future[None] | None


class Writer:
    """Args:
    states: committed state of a live task (asked on the writer thread only, which alone changes it).
    publish: called on the writer thread after each commit, before waiters are answered. Must not raise.
    limit: lines that may wait before `submit` blocks.
    """

    def __init__(
        self,
        database: Database,
        *,
        states: Callable[[str], TaskState],
        publish: Callable[[Sequence[Committed]], None],
        limit: int = 10_000,
    ) -> None:
        self._database = database
        self._states = states
        self._publish = publish
        self._limit = limit
        self._queue: deque[_Pending] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self.degraded: str | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self,
        operation: Operation,
        *,
        admit: Callable[[], None] | None = None,
        wait_for_space: bool = True,
        want_future: bool = False,
    ) -> Future[None] | None:
        """Queue an operation; blocks while the queue is full, if `wait_for_space`.

        `admit` runs at the moment the operation takes its place; by raising it keeps it out.

        Raises:
            StorageUnavailable: the writer is closed.
        """
        done: Future[None] | None = Future() if want_future else None
        with self._changed:
            while wait_for_space and len(self._queue) >= self._limit and not self._closing.is_set():
                self._changed.wait()
            if admit is not None:
                admit()
            if self._closing.is_set():
                raise StorageUnavailable("The service is shutting down.", code="shutting_down")
            self._queue.append(_Pending(operation, done))
            self._changed.notify_all()
        return done

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything submitted so far is committed.

        Raises:
            TimeoutError: it is not, after `timeout` seconds.
        """
        done = self.submit(Flush(), wait_for_space=False, want_future=True)
        assert done is not None
        done.result(timeout)

    def close(self, timeout: float) -> bool:
        """Commit what waits and end the thread. False: the store still refused after `timeout` seconds."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._write_or_retry(batch)
            except Exception as error:
                logger.critical("The writer has made a mistake; a batch may not have been published", exc_info=error)
                for pending in batch:
                    if pending.done is not None and not pending.done.done():
                        pending.done.set_exception(error)

    def _next_batch(self) -> list[_Pending]:
        with self._changed:
            while not self._queue and not self._closing.is_set():
                self._changed.wait()
            batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
            self._changed.notify_all()
        return batch

    def _write_or_retry(self, batch: list[_Pending]) -> None:
        """Write a batch whole, again and again while the store is unavailable; one bad operation fails alone."""
        attempt = 0
        while True:
            try:
                committed = self._write([pending.operation for pending in batch], again=attempt > 0)
            except Exception as error:  # noqa: BLE001 - the writer must outlive every bad row
                if _is_temporary(error):
                    self._wait_degraded(error, attempt)
                    attempt += 1
                    continue
                if len(batch) > 1:
                    for pending in batch:
                        self._write_or_retry([pending])
                    return
                self._refuse(batch[0], error)
                return
            break
        if self.degraded is not None:
            logger.warning("The store takes writes again")
            self.degraded = None
        self._publish(committed)
        for pending in batch:
            if pending.done is not None:
                pending.done.set_result(None)

    def _write(self, operations: Sequence[Operation], *, again: bool) -> list[Committed]:
        touched: dict[str, Committed] = {}
        created: list[TaskState] = []
        deleted: list[str] = []
        for operation in operations:
            match operation:
                case CreateTask(state):
                    created.append(state)
                    touched[state.task_id] = Committed(state)
                case LogEntry(task_id=task_id):
                    if task_id not in touched:
                        touched[task_id] = Committed(self._states(task_id))
                    task = touched[task_id]
                    task.state, entry = task.state.after(operation)
                    task.entries.append(entry)
                    task.frames.append(encode_frame(entry.seq, to_wire(entry)))
                case DeleteTask(task_id):
                    deleted.append(task_id)
                case Flush():
                    pass
        committed = list(touched.values())
        entries = [entry for task in committed for entry in task.entries]
        points = [point for entry in entries for point in point_rows(entry)]
        if not (created or entries or deleted) or (again and self._is_stored(committed)):
            return committed
        with self._database.writing() as connection:
            for task_id in deleted:
                connection.execute(tasks.delete().where(tasks.c.task_id == task_id))
            if created:
                connection.execute(_INSERT_TASK, [new_task_row(state) for state in created])
            if entries:
                connection.execute(_INSERT_ENTRY, [entry_row(entry) for entry in entries])
                connection.execute(_UPDATE_TASK, [changed_task_row(task.state) for task in committed if task.entries])
            if points:
                connection.execute(_INSERT_POINT, points)
        return committed

    def _is_stored(self, committed: Sequence[Committed]) -> bool:
        """Whether an attempt that seemed to fail was committed: its answer can be lost with the connection."""
        states = {task.state.task_id: task.state for task in committed}
        query = select(tasks.c.task_id, tasks.c.last_seq, tasks.c.updated_at).where(tasks.c.task_id.in_(states))
        with self._database.writing() as connection:
            stored = {task_id: (last_seq, updated_at) for task_id, last_seq, updated_at in connection.execute(query)}
        return bool(states) and stored == {key: (state.last_seq, state.updated_at) for key, state in states.items()}

    def _wait_degraded(self, error: Exception, attempt: int) -> None:
        known, self.degraded = self.degraded, str(error.__cause__ or error)
        if known is None:
            logger.error("The store refuses writes; log lines wait until it takes them: %s", error)
        delay = RETRY_DELAYS_S[min(attempt, len(RETRY_DELAYS_S) - 1)]
        if self._closing.wait(delay):
            with self._changed:  # closing: keep trying, but not in a busy loop
                self._changed.wait(delay)

    def _refuse(self, pending: _Pending, error: Exception) -> None:
        """Answer for an operation that can never be stored. A line leaves its number and its change of status."""
        if isinstance(pending.operation, CreateTask) and isinstance(error, IntegrityError):
            task_id = pending.operation.state.task_id
            error = TaskConflict(f"There is a task {task_id!r} already. Choose another task_id.", code="task_id_in_use")
        else:
            logger.error("Could not store %r", pending.operation, exc_info=error)
            substitute = _substitute(pending.operation)
            if substitute is not None and not isinstance(error, KeyError):
                self._write_or_retry([_Pending(substitute, pending.done)])
                return
        if pending.done is not None:
            pending.done.set_exception(error)


def _substitute(operation: Operation) -> LogEntry | None:
    """What is stored in place of a line that cannot be; `None` for everything else, and for a substitute."""
    if not isinstance(operation, LogEntry) or operation.message == UNSTORABLE:
        return None
    return LogEntry(operation.task_id, "ERROR", UNSTORABLE, change=operation.change, timestamp=operation.timestamp)


def _is_temporary(error: Exception) -> bool:
    """Whether the same write can succeed later: disk full, locked, read-only, connection or ownership lost.

    Only what the store says of the row itself is final; whatever else a server may answer in its trouble,
    waiting for it loses nothing.
    """
    if isinstance(error, SQLAlchemyError):
        about_the_row = (IntegrityError, DataError, ProgrammingError)
        return not isinstance(error, about_the_row) and (
            isinstance(error, DBAPIError) or not isinstance(error, StatementError)
        )
    return isinstance(error, OSError | StoreInUse)
