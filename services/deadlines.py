"""Times at which tasks have stayed for too long, watched by one thread however many there are."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_STALE = 64
"""Replaced deadlines that may lie in the heap before it is made anew."""


class Deadlines:
    """At most one deadline for each task.

    Args:
        expire: called on the thread of this object, without a lock, with a task whose deadline has passed. As the
            deadline may be replaced at the same moment, it asks `is_due` under a lock of its own that also guards
            the calls of `set` and `clear`.
    """

    def __init__(self, expire: Callable[[str], None]) -> None:
        self._expire = expire
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def set(self, task_id: str, seconds: float) -> None:
        """In so many seconds, which may be past; in place of the deadline that the task has."""
        moment = time.monotonic() + seconds
        with self._changed:
            self._due[task_id] = moment
            heapq.heappush(self._heap, (moment, task_id))
            if len(self._heap) > 2 * len(self._due) + _STALE:
                self._heap = [(moment, task_id) for task_id, moment in self._due.items()]
                heapq.heapify(self._heap)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

    def clear(self, task_id: str) -> None:
        with self._changed:
            self._due.pop(task_id, None)

    def is_due(self, task_id: str) -> bool:
        with self._changed:
            return self._due.get(task_id, float("inf")) <= time.monotonic()

    def close(self) -> None:
        """Let no more deadlines pass."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (task_id := self._next()) is not None:
            try:
                self._expire(task_id)
            except Exception:
                logger.exception("Task %s has overstayed, and could not be ended", task_id)

    def _next(self) -> str | None:
        """Wait for the next deadline that passes; `None` once closed."""
        with self._changed:
            while not self._closed:
                while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
                    heapq.heappop(self._heap)  # replaced or cleared
                if not self._heap:
                    self._changed.wait()
                elif (left := self._heap[0][0] - time.monotonic()) > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                else:
                    return heapq.heappop(self._heap)[1]
        return None
