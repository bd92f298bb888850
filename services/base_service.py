"""Tasks and their logs, whatever the tasks do.

A line goes in through `add_log`, is committed by the writer thread, and then reaches status, history and
every stream at once: `_publish` swaps in the new task state and shows the frames under one lock, so at
every published id the status is what the log up to that id says.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar, Unpack

import anyio.to_thread
from sqlalchemy import Connection

from models.schemas import TaskStatus
from services.errors import StorageUnavailable, TaskConflict, TaskNotFound
from services.events import Cursor, EventLog
from services.log_entry import LogEntry, Reading, decode_frame, encode_frame, narrow, to_wire
from services.log_queue import Chunk, LogQueue, join
from services.replica import Replica
from services.storage.changes import Changes
from services.storage.database import Database
from services.storage.events import EventStore
from services.storage.notices import ALERT, DELETED, RESET
from services.storage.operations import Apply, Committed, CreateTask, DeleteTask, Notice, Seal
from services.storage.series import SeriesStore
from services.storage.store import Store
from services.storage.writer import Writer
from services.task_state import TaskState

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 15.0
"""How long a request waits for its own commit before it is told that the store does not answer."""

FLUSH_TIMEOUT_S = 1.0
"""How long a trainer that wants its lines stored waits before it looks whether it is to stop."""

CLOSE_TIMEOUT_S = 5.0
"""How long the service's end waits for a store that does not answer."""

REPLAY_PAGE = 500

Result = TypeVar("Result")


class LogHistory(Mapping[str, list[dict[str, Any]]]):
    """`log_history[task_id]`: every committed line of a task, as `DetailedLogEntry` dicts, read from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, task_id: str) -> list[dict[str, Any]]:
        state = self._store.get_task(task_id)
        if state is None:
            raise KeyError(task_id)
        return [to_wire(entry, state.attempt) for entry in self._store.read_entries(task_id)]

    def __contains__(self, task_id: object) -> bool:
        return isinstance(task_id, str) and self._store.get_task(task_id) is not None

    def __iter__(self) -> Iterator[str]:
        return (state.task_id for _, state in self._store.list_tasks(limit=None))

    def __len__(self) -> int:
        return self._store.count_tasks()


class BaseService:
    """Owns the live tasks: their states, log queues and followers.

    Where another process owns the store, it only shows what that one does, until it takes its place (`Replica`).

    Attributes:
        tasks: state of every task that has not ended. Replaced, never changed, after each commit.
        log_queues: the live log of the same tasks; `put` takes a line, viewers follow it.
        log_history: all lines of any task, live or ended.
        events: what happens to all tasks, in one order.
        series: the points of their metrics.
        followers: how many follow the log of a task. Counted in the event loop that serves them.
        alert_counts: how often alerts have fired for each task.
        replica: what follows the owner of the store; `None` in the service that is the owner.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.store = Store(database)
        self.tasks: dict[str, TaskState] = {}
        self.log_queues: dict[str, LogQueue] = {}
        self.log_history = LogHistory(self.store)
        self._lock = threading.RLock()
        self.events = EventLog(EventStore(database))
        self.series = SeriesStore(database)
        self.alert_counts = Counter(EventStore(database).count_alerts())
        self._writer = Writer(database, states=self.tasks.__getitem__, publish=self._publish, announce=self._announce)
        self.replica: Replica | None = None
        if database.is_owner:
            self._writer.start()
        else:
            self._writer.refuse(database.read_replica)
            self.replica = Replica(
                database, show=self._show_changes, known=lambda: list(self.tasks), promote=self._become_owner
            )
            self.replica.catch_up()
            self.events.catch_up_first = self._catch_up
        self.followers = 0

    @property
    def writer(self) -> Writer:
        """For whoever watches it; lines go in through `add_log`."""
        return self._writer

    @property
    def database(self) -> Database:
        return self._database

    @property
    def storage_degraded(self) -> str | None:
        """Why log lines wait to be stored, or those of another service cannot be seen; `None` while neither is so."""
        replica = self.replica
        return self._writer.degraded if replica is None else replica.trouble

    def close(self) -> bool:
        """Commit every line that was added and let go of the store.

        False where it refused to the end. The writer still tries, so the store stays this process's own.
        """
        if self.replica is not None:
            self.replica.close()
        committed = self._writer.close(CLOSE_TIMEOUT_S)
        if committed:
            self._database.close()
        return committed

    def create_log_queue(self, task_id: str, state: TaskState | None = None) -> LogQueue:
        """Begin the log of a new task; returns once the task is in the store.

        Without a `state` it is a task that nothing runs: whoever made it adds its lines.

        Raises:
            TaskConflict: there is, or was, a task of this id.
            TimeoutError: the store does not take writes; should it still take this one, it is undone.
        """
        now = datetime.now(UTC)
        state = state or TaskState(
            task_id=task_id, request={}, output_dir="", device="", created_at=now, updated_at=now
        )
        queue = LogQueue(task_id, self._writer)
        with self._lock:
            if task_id in self.log_queues:
                raise TaskConflict(f"There is a task {task_id!r} already.", code="task_id_in_use")
            self.log_queues[task_id] = queue
        try:
            done = self._writer.submit(CreateTask(state), wait_for_space=False, want_future=True)
            assert done is not None
            done.result(WRITE_TIMEOUT_S)
        except TimeoutError:
            assert done is not None
            done.add_done_callback(lambda late: self._forget(task_id, stored=late.exception() is None))
            raise
        except Exception:
            self._forget(task_id)
            raise
        return queue

    def _forget(self, task_id: str, *, stored: bool = False) -> None:
        """Take back a creation that failed, or that came too late for whoever had asked for it."""
        with self._lock:
            self.tasks.pop(task_id, None)
            self.log_queues.pop(task_id).publish([], ended=True)
        if stored:
            with suppress(StorageUnavailable):  # closing: the next service takes the task up
                self._writer.submit(DeleteTask(task_id), wait_for_space=False)

    def adopt(self, state: TaskState) -> None:
        """Make a stored task live again: after a restart, to resume it, or in the place of an owner that is gone."""
        with self._lock:
            self.tasks[state.task_id] = state
            queue = self.log_queues.get(state.task_id)
            if queue is None:
                queue = LogQueue(state.task_id, self._writer, last_seq=state.last_seq, attempt=state.attempt)
                self.log_queues[state.task_id] = queue
            else:  # it has followers already
                queue.begin_writing(state.attempt)

    def add_log(
        self,
        task_id: str,
        level: str,
        message: str,
        metrics: Mapping[str, Any] | None = None,
        step: int | None = None,
        stage: str | None = None,
        **reading: Unpack[Reading],
    ) -> None:
        """Add a line to a task's log (添加日志, 支持训练指标).

        Returns at once: the line is stored and shown by the writer thread. Waits only while much of this task
        waits to be written, which happens when the disk refuses or the lines are a flood. `reading` is for
        whoever has read metrics, step and stage from the message itself.

        Raises:
            TaskNotFound: there is no such task.
            TaskConflict: the task has ended.
            TypeError, ValueError: a metric or the step is no number.
        """
        self._log_queue(task_id).put(
            LogEntry(task_id=task_id, level=level, message=message, metrics=metrics, step=step, stage=stage, **reading)
        )

    def flush_log(self, task_id: str) -> None:  # noqa: ARG002 - tasks share one queue to the store
        """Wait until every line that was added to a task's log is committed.

        Raises:
            TimeoutError: the store does not take them at present.
            StorageUnavailable: the service is closed.
        """
        self._writer.flush(FLUSH_TIMEOUT_S)

    def get_logs(self, task_id: str) -> list[dict[str, Any]]:
        """Every line of a task so far, as `DetailedLogEntry` dicts, the ones just added included.

        Raises:
            TaskNotFound: there is no such task.
            TimeoutError: the store does not take what was added.
            StorageUnavailable: it cannot be read, or the service is closed.
        """
        if self.replica is None:
            self._writer.flush(WRITE_TIMEOUT_S)
        try:
            return self.log_history[task_id]
        except KeyError:
            raise TaskNotFound(task_id) from None

    async def stream_logs(
        self, task_id: str, after: int = 0, metrics: frozenset[str] | None = None
    ) -> AsyncGenerator[bytes]:
        """Frames of Server-Sent Events from line `after + 1` on, until the task's last line.

        Nothing (`b""`) while there are none for long, so that whoever sends them can show that it is alive.

        Args:
            task_id: a task that exists.
            after: the last line that the viewer has.
            metrics: names to keep in each line's metrics; all, if not given.
        """
        self.followers += 1
        try:
            queue = self.log_queues.get(task_id)
            known = queue.last_seq if queue else 0
            if after > known and after > await anyio.to_thread.run_sync(self._count_lines, task_id):
                after = 0  # a cursor of an earlier task of the same id, since deleted
            is_up_to_date = self.replica is None
            while queue is None:
                page = await anyio.to_thread.run_sync(self._read_page, task_id, after)
                if page.frames:
                    after = _number_of(page.frames[-1])
                    yield _narrow(page, metrics)
                elif is_up_to_date:
                    return
                else:  # it may have begun a moment ago
                    await anyio.to_thread.run_sync(self._catch_up)
                    is_up_to_date = True
                queue = self.log_queues.get(task_id)  # it may have been resumed
            while True:
                ended = queue.ended  # asked before reading: the last frame may come in between
                chunk = queue.read_chunk(after)
                if chunk is None:
                    chunk = await anyio.to_thread.run_sync(self._read_page, task_id, after)
                    if not chunk.frames:  # deleted while it was being replayed
                        return
                if chunk.frames:
                    after = _number_of(chunk.frames[-1])
                    yield _narrow(chunk, metrics)
                elif ended:
                    return
                elif not await queue.wait(after):
                    yield b""
        finally:
            self.followers -= 1

    async def wait_for_end(self, task_id: str, timeout_s: float) -> None:
        """Return when a task has ended, or after so long."""
        queue = self.log_queues.get(task_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while queue is not None and not queue.ended:
                    await queue.wait(queue.last_seq)

    def _count_lines(self, task_id: str) -> int:
        """Committed lines: a viewer may have read them from the store a moment before they are published."""
        state = self.store.get_task(task_id)
        return 0 if state is None else state.last_seq

    def _read_page(self, task_id: str, after: int) -> Chunk:
        """Lines that the status knows: more may be committed, and published a moment later."""
        state = self.tasks.get(task_id) or self.store.get_task(task_id)
        if state is None:
            return join(())
        limit = min(REPLAY_PAGE, max(0, state.last_seq - after))
        entries = self.store.read_entries(task_id, after=after, limit=limit)
        known = (entry for entry in entries if entry.seq <= state.last_seq)  # numbers may be missing: of removed lines
        return join(encode_frame(entry.seq, to_wire(entry, state.attempt)) for entry in known)

    def get_task(self, task_id: str) -> TaskState:
        """A task's state, live or ended.

        Raises:
            TaskNotFound: there is no such task.
        """
        state = self.tasks.get(task_id) or self.store.get_task(task_id)
        if state is None:
            raise TaskNotFound(task_id)
        return state

    def is_live(self, task_id: str) -> bool:
        """Whether a task goes on, also where the store does not know yet that it was resumed."""
        return task_id in self.log_queues

    def list_tasks(
        self, *, status: Sequence[TaskStatus] = (), before: int | None = None, limit: int = 50
    ) -> list[tuple[int, TaskState]]:
        """Tasks, newest first, each with the cursor of the page after it."""
        return self.store.list_tasks(status=status, before=before, limit=limit)

    def ask_for_buckets(self, task_id: str, names: Sequence[str]) -> None:
        """Have the store prepare long series for the next who reads them. Returns at once."""
        with suppress(StorageUnavailable):  # closing
            self._writer.submit(Seal(task_id, names), wait_for_space=False)

    def apply(self, operation: Apply) -> None:
        """Have the writer run statements of another part of the service; returns once they are committed.

        Raises:
            StorageUnavailable: the service is shutting down.
            TimeoutError: the store has not taken them yet; it still may.
        """
        done = self._writer.submit(operation, wait_for_space=False, want_future=True)
        assert done is not None
        done.result(WRITE_TIMEOUT_S)

    def write(self, statements: Callable[[Connection], Result]) -> Result:
        """As `apply`, for statements that have a result and no notices."""
        results: list[Result] = []

        def run(connection: Connection) -> list[Notice]:
            results[:] = [statements(connection)]
            return []

        self.apply(Apply(run))
        return results[0]

    def delete_task(self, task_id: str) -> None:
        """Forget an ended task and its lines. Its files stay.

        Raises:
            TaskNotFound: there is no such task.
            TaskConflict: it has not ended.
            StorageUnavailable: the store does not take writes.
            TimeoutError: it has not taken this one yet.
        """
        self._submit_delete(task_id).result(WRITE_TIMEOUT_S)

    def _submit_delete(self, task_id: str) -> Future[None]:
        self._refuse_unless_ended(task_id)
        self._refuse_while_degraded()
        done = self._writer.submit(DeleteTask(task_id), wait_for_space=False, want_future=True)
        assert done is not None
        return done

    def _refuse_unless_ended(self, task_id: str) -> None:
        """A task with a live log goes on, though the store may not know yet that it was resumed."""
        if not self.get_task(task_id).status.is_terminal or task_id in self.log_queues:
            raise TaskConflict(
                f"Task {task_id!r} has not ended. Stop it first: POST /api/v2/training/{task_id}/stop",
                code="task_active",
            )

    def _refuse_while_degraded(self) -> None:
        """Raises: StorageUnavailable: a write would only wait, and hold a request's thread."""
        if self.storage_degraded:
            detail = f"The store refuses writes ({self.storage_degraded}). Free or repair its disk, then try again."
            raise StorageUnavailable(detail)

    def _log_queue(self, task_id: str) -> LogQueue:
        queue = self.log_queues.get(task_id)
        if queue is None:
            if self.store.get_task(task_id) is None:
                raise TaskNotFound(task_id)
            raise TaskConflict(f"Task {task_id!r} has ended; its log is closed.", code="task_ended")
        return queue

    def _publish(self, committed: Sequence[Committed]) -> None:
        for task in committed:
            task_id, ended = task.state.task_id, task.state.status.is_terminal
            with self._lock:
                if task.rewritten is not None:
                    self._rewrite(task.state, task.rewritten)
                    continue
                queue = self.log_queues[task_id]
                if ended:
                    self.tasks.pop(task_id, None)
                    del self.log_queues[task_id]
                else:
                    self.tasks[task_id] = task.state
                queue.publish(task.frames, ended=ended)
            self.events.publish(task)

    @property
    def is_owner(self) -> bool:
        """Whether things can be changed here; else another service owns the store."""
        return self.replica is None and self._database.is_owner

    def _become_owner(self) -> None:
        """The store is this process's own now, and everything that others have written is shown: write from here on."""
        self._writer.start()
        self.replica = None

    def _catch_up(self) -> None:
        replica = self.replica
        if replica is not None:
            replica.catch_up()

    def _show_changes(self, changes: Changes) -> None:
        """Show what another process has committed, as `_publish` and `_announce` show this one's own."""
        deleted = {notice.task_id for notice in changes.notices if notice.kind == DELETED}
        if not changes.is_whole:
            deleted |= self.tasks.keys() - changes.states.keys()
            self.alert_counts = Counter(EventStore(self._database).count_alerts())
        for task_id in deleted:
            with self._lock:
                queue = self.log_queues.pop(task_id, None)
                self.tasks.pop(task_id, None)
            if queue is not None:
                queue.publish([], ended=True)
        lines: defaultdict[str, list[LogEntry]] = defaultdict(list)
        for _, entry in changes.lines:
            lines[entry.task_id].append(entry)
        reread = {notice.task_id for notice in changes.notices if notice.kind == RESET}
        for task_id, state in changes.states.items():
            frames = [encode_frame(entry.seq, to_wire(entry, state.attempt)) for entry in lines[task_id]]
            self._show_task(state, frames, skip=not changes.is_whole or task_id in reread)
        for notice in changes.notices:
            self._count_alert(notice)
        self.events.catch_up(changes.lines, changes.notices, Cursor(changes.row, changes.notice))

    def _show_task(self, state: TaskState, frames: Sequence[bytes], *, skip: bool) -> None:
        """Args: frames: its new lines. skip: have followers read them from the store instead."""
        task_id, ended = state.task_id, state.status.is_terminal
        with self._lock:
            queue = self.log_queues.get(task_id)
            if queue is None:
                if ended:
                    return
                queue = LogQueue(task_id, self._writer, last_seq=state.last_seq - len(frames), attempt=state.attempt)
            if ended:
                self.tasks.pop(task_id, None)
                self.log_queues.pop(task_id, None)
            else:
                self.tasks[task_id] = state
                self.log_queues[task_id] = queue
            if skip or state.last_seq != queue.last_seq + len(frames):
                queue.skip_to(state.last_seq, ended=ended)
            else:
                queue.publish(frames, ended=ended)

    def _announce(self, notice: Notice) -> None:
        self._count_alert(notice)
        self.events.announce(notice)

    def _count_alert(self, notice: Notice) -> None:
        if notice.kind == ALERT:
            self.alert_counts[notice.task_id] += 1
        elif notice.kind == DELETED:
            self.alert_counts.pop(notice.task_id, None)

    def _rewrite(self, state: TaskState, frames: Sequence[bytes]) -> None:
        """Show another reading of a task's lines; of one that has ended, the store alone knows."""
        if state.task_id in self.tasks:
            self.tasks[state.task_id] = state
            self.log_queues[state.task_id].rewrite(frames)


def _narrow(chunk: Chunk, metrics: frozenset[str] | None) -> bytes:
    if metrics is None:
        return chunk.joined
    return b"".join(_narrow_frame(frame, metrics) for frame in chunk.frames)


def _narrow_frame(frame: bytes, metrics: frozenset[str]) -> bytes:
    return encode_frame(_number_of(frame), narrow(decode_frame(frame), metrics))


def _number_of(frame: bytes) -> int:
    return int(frame[4 : frame.index(b"\r")])
