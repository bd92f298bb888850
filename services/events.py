"""What happens to all tasks, in one order: every line of every log, and the events that are no lines.

A follower is a cursor, as in `services.log_queue`: it reads from a ring of frames that all followers share, or, where
the ring does not reach back that far, from the store, which has the same events in the same order.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, Self

import anyio.to_thread

from services.log_entry import LogEntry, encode_event, to_wire
from services.storage.events import EventStore
from services.storage.notices import DELETED
from services.storage.operations import Committed, Notice
from services.wakeup import Wakeup

LOG, METRIC, STATUS, ALERT, RESET = "log", "metric", "status", "alert", "reset"
EVENT_TYPES: Final = (LOG, METRIC, STATUS, ALERT, RESET)

RING_EVENTS = 2000
RING_BYTES = 4_000_000
PAGE = 500
CHUNK_BYTES = 262_144


class Cursor(NamedTuple):
    """The last line, by its place in the log of all tasks, and the last notice that somebody has."""

    row: int = 0
    notice: int = 0

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The cursor of `"<row>.<notice>"`; `None` where it is none."""
        row, dot, notice = text.partition(".")
        if not (dot and all(part.isascii() and part.isdecimal() and len(part) < 19 for part in (row, notice))):
            return None
        return cls(int(row), int(notice))

    def __str__(self) -> str:
        return f"{self.row}.{self.notice}"


@dataclass(slots=True)
class Event:
    """One event. `cursor` is that of somebody who has seen it and all before it."""

    cursor: Cursor
    task_id: str
    type: str
    data: dict[str, Any]
    _frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        """As a Server-Sent Event; encoded once for all followers."""
        if self._frame is None:
            self._frame = encode_event(str(self.cursor), self.type, self.data)
        return self._frame


def line_event(entry: LogEntry, cursor: Cursor) -> Event:
    data = {"task_id": entry.task_id, "id": entry.seq, **to_wire(entry)}
    kind = METRIC if entry.metrics else LOG
    if entry.change is not None:
        kind = STATUS
        data |= {"status": entry.change.status.value, "reason": entry.change.reason}
    return Event(cursor, entry.task_id, kind, data)


def notice_event(notice: Notice, row: int) -> Event:
    cursor, data = Cursor(row, notice.id), {"task_id": notice.task_id, **notice.data}
    if notice.kind == DELETED:
        return Event(cursor, notice.task_id, STATUS, {**data, "deleted": True})
    return Event(cursor, notice.task_id, notice.kind, data)


class EventLog:
    """Owns the ring. The writer thread publishes; followers of any event loop read.

    Events are made only while somebody follows; who comes later reads what was missed from the store.

    Attributes:
        catch_up_first: called before a cursor is said to be void: in a replica, the owner's viewers may be ahead.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.catch_up_first: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._wakeup = Wakeup()
        self._followers = 0
        self._ring: deque[Event] = deque()
        self._ring_bytes = 0
        self._end = Cursor(*store.last_event())
        self._start = self._end

    @property
    def followers(self) -> int:
        """How many follow all tasks, or some."""
        return self._followers

    @property
    def end(self) -> Cursor:
        """Of somebody who has seen everything."""
        return self._end

    def publish(self, task: Committed) -> None:
        """Show committed lines. Called by the writer thread, in the order of their rows."""
        if task.entries:
            rows = enumerate(task.entries, start=task.first_row)
            self._extend(
                first=Cursor(task.first_row, self._end.notice),
                last=Cursor(task.first_row + len(task.entries) - 1, self._end.notice),
                events=lambda: [line_event(entry, Cursor(row, self._end.notice)) for row, entry in rows],
            )

    def announce(self, notice: Notice) -> None:
        """Show a committed notice. Called by the writer thread."""
        cursor = Cursor(self._end.row, notice.id)
        self._extend(first=cursor, last=cursor, events=lambda: [notice_event(notice, cursor.row)])

    def catch_up(self, lines: Sequence[tuple[int, LogEntry]], notices: Sequence[Notice], end: Cursor) -> None:
        """Show what another process has committed. Who is not given all of it, or any, reads it from the store.

        Args:
            lines: each with its row, in that order.
            end: of somebody who has seen everything.
        """
        made = _in_order(lines, notices, self._end)[0] if self._followers else []
        self._show(made, end)

    def _extend(self, *, first: Cursor, last: Cursor, events: Callable[[], Sequence[Event]]) -> None:
        is_next = sum(first) == sum(self._end) + 1
        made = events() if self._followers and is_next else []
        self._show(made, last if is_next else None)

    def _show(self, made: Sequence[Event], end: Cursor | None) -> None:
        with self._lock:
            if end is None:  # a commit whose answer was lost: the store knows
                end = Cursor(*self._store.last_event())
            self._end = end
            if not made:
                self._forget()
            for event in made:
                self._ring.append(event)
                self._ring_bytes += len(event.frame)
            while len(self._ring) > RING_EVENTS or self._ring_bytes > RING_BYTES:
                oldest = self._ring.popleft()
                self._ring_bytes -= len(oldest.frame)
                self._start = oldest.cursor
        self._wakeup.notify()

    def _forget(self) -> None:
        self._ring.clear()
        self._ring_bytes = 0
        self._start = self._end

    async def follow(
        self, after: Cursor | None, task_ids: Collection[str] = (), types: Collection[str] = EVENT_TYPES
    ) -> AsyncGenerator[bytes]:
        """Frames of the events behind `after`, or from now on; for ever. Nothing (`b""`) while there are none for long.

        Args:
            after: one that an event, or `end`, had. From another store, or from the future, it is void: the first
                event is then a `reset` without a task.
            task_ids: of these tasks only; of all, if none is given.
            types: of these types only.

        Raises:
            StorageUnavailable: the store cannot be read.
        """
        cursor = self._end if after is None else after
        with self._lock:
            self._followers += 1
        try:
            if self._is_beyond_end(cursor):
                await anyio.to_thread.run_sync(self.catch_up_first)
            if self._is_beyond_end(cursor):
                cursor = self._end
                yield encode_event(str(cursor), RESET, {})
            while True:
                events = self._read_ring(cursor)
                if events is None:
                    page = await anyio.to_thread.run_sync(self._read_store, cursor, self._end, task_ids)
                    events, cursor = page
                elif events:
                    events = _head(events)
                    cursor = events[-1].cursor
                elif not await self._wakeup.wait(partial(self._is_behind, cursor)):
                    yield b""
                frames = [
                    event.frame
                    for event in events
                    if event.type in types and (not task_ids or event.task_id in task_ids)
                ]
                if frames:
                    yield b"".join(frames)
                elif events:  # an id alone is no event, but moves the viewer on (WHATWG HTML, 9.2.6)
                    yield b"id: %s\r\n\r\n" % str(cursor).encode()
        finally:
            with self._lock:
                self._followers -= 1
                if not self._followers:
                    self._forget()

    def _is_beyond_end(self, cursor: Cursor) -> bool:
        return cursor.row > self._end.row or cursor.notice > self._end.notice

    def _is_behind(self, cursor: Cursor) -> bool:
        return self._end != cursor

    def _read_ring(self, after: Cursor) -> list[Event] | None:
        """Events behind a cursor; `None` where the ring does not reach back that far."""
        with self._lock:
            if sum(after) < sum(self._start):
                return None
            seen = bisect_right(self._ring, sum(after), key=lambda event: sum(event.cursor))
            newest_first = list(islice(reversed(self._ring), len(self._ring) - seen))
        return newest_first[::-1]

    def _read_store(self, after: Cursor, end: Cursor, task_ids: Collection[str]) -> tuple[list[Event], Cursor]:
        """A page of events behind `after`, none behind `end`; and the cursor of who has seen it."""
        lines = self._store.read_lines(after.row, end.row, task_ids, PAGE)
        reached = lines[-1][0] if len(lines) == PAGE else end.row
        events, cursor = _in_order(lines, self._store.read_notices(after.notice, end.notice, reached), after)
        return events, Cursor(reached, max(cursor.notice, end.notice if reached == end.row else cursor.notice))


def _in_order(
    lines: Sequence[tuple[int, LogEntry]], notices: Sequence[Notice], after: Cursor
) -> tuple[list[Event], Cursor]:
    """The events of lines, each with its row, and of notices; and the cursor of the last one."""
    waiting = deque(notices)
    events: list[Event] = []
    cursor = after
    for row, entry in lines:
        while waiting and waiting[0].after_row < row:
            cursor = Cursor(max(cursor.row, waiting[0].after_row), waiting[0].id)
            events.append(notice_event(waiting.popleft(), cursor.row))
        cursor = Cursor(row, cursor.notice)
        events.append(line_event(entry, cursor))
    for notice in waiting:
        cursor = Cursor(max(cursor.row, notice.after_row), notice.id)
        events.append(notice_event(notice, cursor.row))
    return events, cursor


def _head(events: Sequence[Event]) -> list[Event]:
    """The first events, as many as are sent at once: each viewer that takes nothing holds so much."""
    head: list[Event] = []
    size = 0
    for event in events:
        head.append(event)
        size += len(event.frame)
        if size > CHUNK_BYTES:
            break
    return head
