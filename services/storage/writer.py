"""The one thread that writes.

It takes whatever has gathered in its queue, folds it into the task states, and commits lines, metric
points and task rows in one transaction (group commit). Only then are waiters answered and lines published,
so nothing that anybody has seen can be lost by a crash. When the store refuses, the batch is kept and tried
again, and those who bring lines wait as soon as enough of their task's lines do: nothing is dropped to keep
going. What may wait is bounded for each task apart, so a flood holds up nobody but itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from prometheus_client import Counter as Count
from prometheus_client import Histogram
from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError, StatementError

from services.errors import OwnershipLost, ServiceError, StorageUnavailable, StoreInUse, StoreUnusable, TaskConflict
from services.log_entry import LogEntry, encode_frame, to_wire
from services.storage.buckets import SEAL_AT_END, Unsealed, seal
from services.storage.database import Database
from services.storage.limits import write_limits
from services.storage.notices import DELETED, RESET, insert_notice
from services.storage.operations import (
    Apply,
    Committed,
    CreateTask,
    DeleteTask,
    Flush,
    Notice,
    Operation,
    Reparse,
    Seal,
    SetLimits,
)
from services.storage.reparse import write_reparse
from services.storage.rows import changed_task_row, entry_row, new_task_row, point_rows
from services.storage.tables import log_entries, metric_points, tasks
from services.task_state import TaskState

logger = logging.getLogger(__name__)

MAX_BATCH = 2_000
MAX_BATCH_CHARACTERS = 8_000_000
"""Of the messages in one transaction. The last line may go beyond it."""
MAX_BATCH_POINTS = 20_000
"""Values of metrics in one transaction, likewise: each is a row of its own."""
UNSTORABLE = "This line could not be stored; the log of the service says why."
RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_COMMIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

_INSERT_TASK = insert(tasks)
_INSERT_ENTRY = insert(log_entries)
_INSERT_POINT = insert(metric_points)
_UPDATE_TASK = update(tasks).where(tasks.c.task_id == bindparam("key"))


@dataclass(slots=True)
class _Waiting:
    """How much of one task's log waits to be written.

    A task that is being stopped may bring as much again: whoever waits with a line must come to hear of the stop,
    also where the store never takes that line.
    """

    lines: int = 0
    characters: int = 0
    points: int = 0
    is_stopping: bool = False

    def count(self, entry: LogEntry, times: int = 1) -> None:
        self.lines += times
        self.characters += times * len(entry.message)
        self.points += times * len(entry.metrics or ())


_Pending = tuple[Operation, Future[None] | None]


class Writer:
    """Args:
    states: committed state of a live task (asked on the writer thread only, which alone changes it).
    publish: called on the writer thread after each commit, before waiters are answered. Must not raise.
    announce: called likewise with each event that is no line, before the lines of its transaction.
    limit, max_characters, max_points: of the lines of one task that may wait before `submit` blocks those who bring
        more of them.
    """

    def __init__(
        self,
        database: Database,
        *,
        states: Callable[[str], TaskState],
        publish: Callable[[Sequence[Committed]], None],
        announce: Callable[[Notice], None],
        limit: int = MAX_BATCH,
        max_characters: int = MAX_BATCH_CHARACTERS // 2,
        max_points: int = MAX_BATCH_POINTS // 2,
    ) -> None:
        self._database = database
        self._states = states
        self._publish = publish
        self._announce = announce
        self._unsealed = Unsealed()
        self._limit = limit
        self._max_characters = max_characters
        self._max_points = max_points
        self._queue: deque[_Pending] = deque()
        self._waiting: defaultdict[str, _Waiting] = defaultdict(_Waiting)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._has_space = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._refusal: Callable[[], ServiceError] | None = None
        self.degraded: str | None = None
        self.lines = Count("training_log_lines", "Log lines that were committed", registry=None)
        self.commits = Histogram(
            "training_commit_seconds", "How long a commit took", buckets=_COMMIT_BUCKETS_S, registry=None
        )
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Begin to write. What was refused until now is taken."""
        self._refusal = None
        self._thread.start()

    def refuse(self, why: Callable[[], ServiceError]) -> None:
        """Take nothing: this process does not own the store. What waits is for another one to write, and dropped here.

        Before `start` until then, behind it for good.
        """
        with self._lock:
            self._refusal = why
            dropped = [done for _, done in self._queue if done is not None]
            self._queue.clear()
            self._waiting.clear()
            if self._thread.is_alive():
                self._closing.set()
            self._arrived.notify_all()
            self._has_space.notify_all()
        for done in dropped:
            done.set_exception(why())

    @property
    def depth(self) -> int:
        """How much waits to be written."""
        return len(self._queue)

    def submit(
        self,
        operation: Operation,
        *,
        admit: Callable[[], None] | None = None,
        wait_for_space: bool = True,
        want_future: bool = False,
    ) -> Future[None] | None:
        """Queue an operation; blocks while enough lines of its task wait, if `wait_for_space`.

        `admit` runs at the moment the operation takes its place; by raising it keeps it out.

        Raises:
            StorageUnavailable: the writer is closed; or `ReadReplica`, where another process owns the store.
        """
        done: Future[None] | None = Future() if want_future else None
        with self._lock:
            if isinstance(operation, LogEntry):
                while wait_for_space and self._is_full(operation.task_id) and not self._closing.is_set():
                    self._has_space.wait()
            if self._refusal is not None:
                raise self._refusal()
            if admit is not None:
                admit()
            if self._closing.is_set():
                raise StorageUnavailable("The service is shutting down.", code="shutting_down")
            if isinstance(operation, LogEntry):
                self._waiting[operation.task_id].count(operation)
            self._queue.append((operation, done))
            if len(self._queue) == 1:
                self._arrived.notify_all()
        return done

    def make_room(self, task_id: str) -> None:
        """Let a task that has just been told to stop bring as much again.

        Not before: a trainer that has not been told would fill that too, and wait where it cannot hear of it.
        """
        with self._lock:
            waiting = self._waiting.get(task_id)
            if waiting is not None:
                waiting.is_stopping = True
                self._has_space.notify_all()

    def _is_full(self, task_id: str) -> bool:
        waiting = self._waiting.get(task_id)
        if waiting is None:
            return False
        times = 2 if waiting.is_stopping else 1
        return (
            waiting.lines >= times * self._limit
            or waiting.characters >= times * self._max_characters
            or waiting.points >= times * self._max_points
        )

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
        with self._lock:
            self._closing.set()
            self._arrived.notify_all()
            self._has_space.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._write_or_retry(batch)
            except Exception as error:
                logger.critical("The writer has made a mistake; a batch may not have been published", exc_info=error)
                for _, done in batch:
                    if done is not None and not done.done():
                        done.set_exception(error)

    def _next_batch(self) -> list[_Pending]:
        batch: list[_Pending] = []
        taken = _Waiting()
        with self._lock:
            while not self._queue and not self._closing.is_set():
                self._arrived.wait()
            while (
                self._queue
                and len(batch) < MAX_BATCH
                and taken.characters < MAX_BATCH_CHARACTERS
                and taken.points < MAX_BATCH_POINTS
            ):
                operation, _ = self._queue[0]
                if isinstance(operation, Reparse) and batch:
                    break
                batch.append(self._queue.popleft())
                if isinstance(operation, LogEntry):
                    taken.count(operation)
                    self._count_out(operation)
                elif isinstance(operation, Reparse):
                    break
            self._has_space.notify_all()
        return batch

    def _count_out(self, entry: LogEntry) -> None:
        waiting = self._waiting[entry.task_id]
        waiting.count(entry, times=-1)
        if not waiting.lines:
            del self._waiting[entry.task_id]

    def _write_or_retry(self, batch: list[_Pending]) -> None:
        """Write a batch whole, again and again while the store is unavailable; one bad operation fails alone."""
        attempt = 0
        while True:
            began = time.perf_counter()
            try:
                committed, notices = self._write([operation for operation, _ in batch], again=attempt > 0)
            except OwnershipLost as lost:
                for _, done in batch:
                    if done is not None and not done.done():
                        done.set_exception(self._refusal() if self._refusal else lost)
                return  # whoever was told of it has everything else refused
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
        self.commits.observe(time.perf_counter() - began)
        self.lines.inc(sum(len(task.entries) for task in committed))
        if self.degraded is not None:
            logger.warning("The store takes writes again")
            self.degraded = None
        for notice in notices:
            self._announce(notice)
        self._show(committed)
        for _, done in batch:
            if done is not None:
                done.set_result(None)

    def _show(self, committed: Sequence[Committed]) -> None:
        """Publish task by task: a mistake in showing one takes the lines of no other along. Raises the first one."""
        mistakes = []
        for task in committed:
            try:
                self._publish([task])
            except Exception as mistake:  # noqa: BLE001 - it is raised below
                mistakes.append(mistake)
        if mistakes:
            raise mistakes[0]

    def _write(self, operations: Sequence[Operation], *, again: bool) -> tuple[list[Committed], list[Notice]]:
        if isinstance(operations[0], Reparse):
            with self._database.writing() as connection:
                task = write_reparse(connection, operations[0])
                return [task], [insert_notice(connection, task.state.task_id, RESET, {"revision": task.state.revision})]
        created: dict[str, TaskState] = {}
        lines: defaultdict[str, list[LogEntry]] = defaultdict(list)
        deleted: list[str] = []
        seals: list[Seal] = []
        applied: list[Apply] = []
        limits: dict[str, int | None] = {}
        for operation in operations:
            match operation:
                case LogEntry(task_id=task_id):
                    lines[task_id].append(operation)
                case CreateTask(state):
                    created[state.task_id] = state
                case DeleteTask(task_id):
                    deleted.append(task_id)
                case SetLimits(changed):
                    limits |= changed
                case Seal():
                    seals.append(operation)
                case Apply():
                    applied.append(operation)
                case _:
                    pass
        committed = [Committed(state, state) for task_id, state in created.items() if task_id not in lines]
        committed += [
            _fold(created.get(task_id) or self._states(task_id), entries) for task_id, entries in lines.items()
        ]
        if not (created or lines or deleted or limits or seals or applied) or (again and self._is_stored(committed)):
            return committed, []
        entries = [entry_row(entry) for task in committed for entry in task.entries]
        points = {
            task.state.task_id: [point for entry in task.entries for point in point_rows(entry)] for task in committed
        }
        with self._database.writing() as connection:
            notices = [insert_notice(connection, task_id, DELETED, {}) for task_id in _existing(connection, deleted)]
            for each_applied in applied:
                notices += each_applied.statements(connection)
            for task_id in deleted:
                connection.execute(tasks.delete().where(tasks.c.task_id == task_id))
            if limits:
                write_limits(connection, limits)
            if created:
                connection.execute(_INSERT_TASK, [new_task_row(state) for state in created.values()])
            if entries:
                connection.execute(_INSERT_ENTRY, entries)
                _number_rows(connection, committed)
            for rows in _alike(changed_task_row(task) for task in committed if task.entries):
                connection.execute(_UPDATE_TASK, rows)
            if any(points.values()):
                connection.execute(_INSERT_POINT, [point for of_task in points.values() for point in of_task])
            self._seal(connection, committed, points)
            for each in seals:
                seal(connection, each.task_id, each.names)
        return committed, notices

    def _seal(
        self, connection: Connection, committed: Sequence[Committed], points: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> None:
        """Make buckets of series that have become long."""
        for task in committed:
            task_id, is_over = task.state.task_id, task.state.status.is_terminal
            self._unsealed.add(task_id, [point["name"] for point in points[task_id]])
            if is_over and task.state.last_seq < SEAL_AT_END:
                self._unsealed.forget(task_id)
            elif names := self._unsealed.due(task_id, is_over=is_over):
                seal(connection, task_id, names)

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
            with self._lock:  # closing: keep trying, but not in a busy loop
                self._arrived.wait(delay)

    def _refuse(self, pending: _Pending, error: Exception) -> None:
        """Answer for an operation that can never be stored. A line leaves its number and its change of status."""
        operation, done = pending
        if isinstance(operation, CreateTask) and isinstance(error, IntegrityError):
            task_id = operation.state.task_id
            error = TaskConflict(f"There is a task {task_id!r} already. Choose another task_id.", code="task_id_in_use")
        elif not isinstance(error, ServiceError):
            logger.error("Could not store %r", operation, exc_info=error)
            substitute = _substitute(operation)
            if substitute is not None and not isinstance(error, KeyError):
                self._write_or_retry([(substitute, done)])
                return
        if done is not None:
            done.set_exception(error)


def _fold(before: TaskState, lines: Sequence[LogEntry]) -> Committed:
    state, stored = before.after(lines)
    task = Committed(before, state, stored)
    task.frames = [encode_frame(entry.seq, to_wire(entry)) for entry in stored]
    for line in reversed(lines):
        if line.position is not None:
            task.position, task.memory = line.position, line.memory
            break
    return task


def _existing(connection: Connection, task_ids: Sequence[str]) -> Sequence[str]:
    if not task_ids:
        return []
    return connection.scalars(select(tasks.c.task_id).where(tasks.c.task_id.in_(task_ids)).order_by(tasks.c.id)).all()


def _number_rows(connection: Connection, committed: Sequence[Committed]) -> None:
    """Tell each task where its lines, which have just been inserted in this order, are in the log of all tasks.

    Only this thread inserts lines, so those of one transaction have consecutive numbers.
    """
    row = (connection.scalar(select(func.max(log_entries.c.id))) or 0) + 1
    for task in reversed(committed):
        row -= len(task.entries)
        task.first_row = row


def _alike(rows: Iterable[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Rows in groups that have the same columns, as one statement for many rows wants them."""
    columns = sorted
    for _, alike in groupby(sorted(rows, key=columns), key=columns):
        yield list(alike)


def _substitute(operation: Operation) -> LogEntry | None:
    """What is stored in place of a line that cannot be; `None` for everything else, and for a substitute."""
    if not isinstance(operation, LogEntry) or operation.message == UNSTORABLE:
        return None
    return LogEntry(
        operation.task_id,
        "ERROR",
        UNSTORABLE,
        change=operation.change,
        timestamp=operation.timestamp,
        attempt=operation.attempt,
        position=operation.position,
        memory=operation.memory,
        priority=operation.priority,
    )


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
    return isinstance(error, OSError | StoreInUse | StoreUnusable)
