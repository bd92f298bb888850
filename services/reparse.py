"""Reads the stored log of a task again, and puts what it says now in the place of what it said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext

from models.schemas import LogReading
from services.errors import TaskConflict, TaskNotFound
from services.log_handler import TrainingLogHandler
from services.log_queue import RING_SIZE
from services.requests import unread
from services.rereading import Rereading
from services.storage.operations import Reparse
from services.storage.store import Store
from services.storage.writer import Writer
from services.task_state import TaskState

PAGE = 500
"""Lines that are read between two moments in which other threads certainly get their turn."""


class Reparser:
    """Reads one task at most once at a time.

    The long part is done page by page, on the caller's thread and without a lock. Then the trainer's next line
    waits until the few lines that have come meanwhile are read as well and everything is handed to the writer.
    So each line is read by the old parser or by the new one, and all that the old one has read is replaced.

    Args:
        get_task: the state of a task; raises TaskNotFound.
    """

    def __init__(self, store: Store, writer: Writer, get_task: Callable[[str], TaskState]) -> None:
        self._store = store
        self._writer = writer
        self._get_task = get_task
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def reparse(
        self,
        task_id: str,
        reading: LogReading,
        find_handler: Callable[[str], TrainingLogHandler | None],
        timeout_s: float,
    ) -> None:
        """Returns when the new reading is committed and shown.

        Args:
            task_id: a task that exists.
            reading: how its lines are read, those to come included.
            find_handler: that of a task's trainer, where it has not ended. Another one has to be told as well, where
                the task has begun again meanwhile.
            timeout_s: how long the store may take for what it is to write.

        Raises:
            TaskConflict: the task is being read again already.
            TaskNotFound: it has been deleted meanwhile.
            TimeoutError, StorageUnavailable.
        """
        with self._alone(task_id):
            handler = find_handler(task_id)
            self._reparse(task_id, reading, handler, timeout_s)
            while (now := find_handler(task_id)) is not None and now is not handler:
                handler = now
                self._reparse(task_id, reading, handler, timeout_s)

    def _reparse(self, task_id: str, reading: LogReading, handler: TrainingLogHandler | None, timeout_s: float) -> None:
        rereading = Rereading(unread(self._get_task(task_id)), reading, keep=RING_SIZE)
        for _ in range(2):  # what comes during the first, long pass is most often little
            self._read_what_is_stored(rereading)
        with handler.held() if handler else nullcontext():
            self._writer.flush(timeout_s)
            done = self._finish(rereading)
            if handler:
                handler.read_on_with(rereading.parser, rereading.watch)
        assert done is not None
        done.result(timeout_s)

    def refuse_while_busy(self, task_id: str) -> None:
        """Raises: TaskConflict: the task is being read again."""
        if task_id in self._busy:
            detail = f"Task {task_id!r} is being read again just now. Try again later."
            raise TaskConflict(detail, code="task_reparsing")

    @contextmanager
    def _alone(self, task_id: str) -> Iterator[None]:
        with self._lock:
            self.refuse_while_busy(task_id)
            self._busy.add(task_id)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(task_id)

    def _finish(self, rereading: Rereading) -> Future[None] | None:
        """Read the last lines and hand everything to the writer. No line of the trainer may come meanwhile."""
        self._read_what_is_stored(rereading)
        if self._get_task(rereading.task_id).status.is_terminal:
            rereading.end()
        operation = Reparse(rereading.task_id, rereading, rereading.parser.memory)
        return self._writer.submit(operation, wait_for_space=False, want_future=True)

    def _read_what_is_stored(self, rereading: Rereading) -> None:
        last_seq = self._get_task(rereading.task_id).last_seq
        while rereading.seq < last_seq:
            page = self._store.read_entries(rereading.task_id, after=rereading.seq, limit=PAGE)
            if not page:
                raise TaskNotFound(rereading.task_id)
            rereading.read(page)
            time.sleep(0)
