"""The live end of one task's log: `put` takes lines in, followers read committed ones out.

A follower is a cursor, not a queue: all followers share one ring of frames that were encoded once, so a
viewer costs one integer and the trainer cannot tell how many there are. A follower that has fallen behind
the ring reads the store instead, and loses nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from services.errors import TaskConflict
from services.log_entry import LogEntry, clean_entry, from_wire
from services.storage.writer import Writer
from services.wakeup import Wakeup

RING_SIZE = 300
"""Frames kept in memory per live task, about 100 KB."""
CHUNK_BYTES = 262_144
"""About as many are sent at once: each viewer that takes nothing holds so much."""


class Chunk(NamedTuple):
    """Frames that are sent at once, and the same as one piece."""

    frames: Sequence[bytes]
    joined: bytes


def join(frames: Iterable[bytes]) -> Chunk:
    """The first of these frames, as many as are sent at once."""
    head: list[bytes] = []
    size = 0
    for frame in frames:
        head.append(frame)
        size += len(frame)
        if size > CHUNK_BYTES:
            break
    return Chunk(head, b"".join(head))


class LogQueue:
    """One per live task, kept in `BaseService.log_queues`."""

    def __init__(self, task_id: str, writer: Writer, *, last_seq: int = 0, attempt: int = 1) -> None:
        self.task_id = task_id
        self.last_seq = last_seq
        self._attempt = attempt
        self.ended = False
        self._writer = writer
        self._closed = False
        self._ring: deque[bytes] = deque(maxlen=RING_SIZE)
        self._lock = threading.Lock()
        self._wakeup = Wakeup()
        self._changes = 0
        self._last_chunk: tuple[int, int, Chunk] | None = None  # after how many changes, behind which line

    def put(self, entry: LogEntry | Mapping[str, Any], *, wait_for_space: bool = True) -> None:
        """Hand a line, or a `DetailedLogEntry` dict, to the store; followers see it once it is committed.

        Waits while the writer's queue is full, unless told not to: the service's own few lines are put
        under its lock, which the writer needs to make space.

        Raises:
            TaskConflict: the task's last line has been put already, or the line's attempt is over.
            TypeError, ValueError: a metric or the step is no number.
        """
        line = clean_entry(entry if isinstance(entry, LogEntry) else from_wire(self.task_id, entry))
        self._writer.submit(line, admit=lambda: self._admit(line), wait_for_space=wait_for_space)

    def _admit(self, entry: LogEntry) -> None:
        if self._closed:
            raise TaskConflict(f"Task {self.task_id!r} has ended; its log is closed.", code="task_ended")
        if entry.attempt and entry.attempt < self._attempt:
            raise TaskConflict(f"Task {self.task_id!r} has begun again; this run of it is over.", code="task_ended")
        self._attempt = entry.attempt or self._attempt
        self._closed = entry.is_last

    def publish(self, frames: Sequence[bytes], *, ended: bool) -> None:
        """Show the committed frames of the next lines to every follower. Called by the writer thread."""
        with self._lock:
            self._ring.extend(frames)
            self.last_seq += len(frames)
            self._changes += 1
            self.ended = ended
        self._wakeup.notify()

    def skip_to(self, last_seq: int, *, ended: bool) -> None:
        """Say that there are lines up to this one, which every follower reads from the store."""
        with self._lock:
            self._ring.clear()
            self.last_seq = last_seq
            self._changes += 1
            self.ended = ended
        self._wakeup.notify()

    def begin_writing(self, attempt: int) -> None:
        """What another process has written so far, this one goes on with."""
        self._attempt = attempt

    def rewrite(self, frames: Sequence[bytes]) -> None:
        """Show the same last lines as they are read now to whoever comes for them. Called by the writer thread."""
        with self._lock:
            self._ring.clear()
            self._ring.extend(frames)
            self._changes += 1

    def read(self, after: int) -> list[bytes] | None:
        """Frames above `after`, oldest first; `None` where the ring does not reach back that far."""
        with self._lock:
            missing = max(0, self.last_seq - after)
            if missing > len(self._ring):
                return None
            newest_first = list(islice(reversed(self._ring), missing))
        return newest_first[::-1]

    def read_chunk(self, after: int) -> Chunk | None:
        """As `read`, but no more than are sent at once. Joined once for all followers that have come as far."""
        changes, last = self._changes, self._last_chunk
        if last is not None and last[:2] == (changes, after):
            return last[2]
        frames = self.read(after)
        if frames is None:
            return None
        chunk = join(frames)
        self._last_chunk = changes, after, chunk  # should it have changed meanwhile, nobody takes it
        return chunk

    async def wait(self, after: int) -> bool:
        """Return once there is a frame above `after`, or the task has ended; false where neither is for long."""
        while not self._has_more(after):
            if not await self._wakeup.wait(lambda: self._has_more(after)):
                return False
        return True

    def _has_more(self, after: int) -> bool:
        return self.last_seq > after or self.ended
