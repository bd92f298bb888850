"""Where the extremes of a long series are, kept beside its points.

A chart of a million points is drawn from a few thousand, and no spike may be missing among them. To look for the
spikes takes reading all points, a second for a million; so each full run of points leaves a row that says which of
them is the lowest, the highest, and one that was not finite. A reader takes those rows and the points behind the last
of them. The writer makes them now and then, in the transaction that stores the last of the points, for a few series at
a time: all tasks wait for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import nlargest
from itertools import groupby, islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select

from services.storage.tables import metric_buckets, metric_points

BUCKET = 64
"""Points in a bucket; the last one of an attempt may have fewer."""
SEAL_AFTER = 4096
"""New points of a task after which the writer makes its buckets: a reader finds about as many without."""
SERIES_AT_ONCE = 32
"""Series of a task whose buckets are made in one transaction, a millisecond or two each."""
SEAL_AT_END = 500
"""Lines of a task that is over from which on it gets its last buckets: fewer are read as quickly point by point."""
_PAGE = 2048 * BUCKET


class Unsealed:
    """Which series have got so many points that there are buckets to be made of them.

    It knows what this process has stored, and is told of it again where a transaction is tried again: what it says is
    when to look, and `seal` sees what is there.
    """

    def __init__(self) -> None:
        self._points: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._since_last: Counter[str] = Counter()

    def add(self, task_id: str, names: Collection[str]) -> None:
        """New points of a task, each by the name of its series."""
        self._points[task_id].update(names)
        self._since_last[task_id] += len(names)

    def due(self, task_id: str, *, is_over: bool) -> list[str]:
        """Series of a task to be sealed now: none until the task has got many points, or `is_over`; never many."""
        points = self._points[task_id]
        if not is_over and self._since_last[task_id] < SEAL_AFTER:
            return []
        long = [name for name, count in points.items() if count >= BUCKET]
        now = nlargest(SERIES_AT_ONCE, long, key=points.__getitem__)
        for name in now:
            del points[name]
        if is_over:
            self.forget(task_id)  # what is left, `Seal` asks for
        elif len(now) == len(long):
            self._since_last[task_id] = 0
        return now

    def forget(self, task_id: str) -> None:
        self._points.pop(task_id, None)
        self._since_last.pop(task_id, None)


class _Point(NamedTuple):
    seq: int
    attempt: int
    epoch: float | None
    value: float | None


def seal(connection: Connection, task_id: str, names: Iterable[str]) -> None:
    """Make the buckets that can be made of these series of a task. Those that are there stay as they are."""
    for name in names:
        last = _last_sealed(connection, task_id, name)
        while rows := _buckets(task_id, name, _read(connection, task_id, name, last)):
            connection.execute(insert(metric_buckets), rows)
            last = rows[-1]["last_seq"]


def unseal(connection: Connection, task_id: str, names: Sequence[str]) -> None:
    """Forget the buckets of series whose points are replaced."""
    columns = metric_buckets.c
    for name in names:
        connection.execute(delete(metric_buckets).where(columns.task_id == task_id, columns.name == name))


def _last_sealed(connection: Connection, task_id: str, name: str) -> int:
    columns = metric_buckets.c
    query = select(func.max(columns.last_seq)).where(columns.task_id == task_id, columns.name == name)
    return connection.scalar(query) or 0


def _read(connection: Connection, task_id: str, name: str, after: int) -> list[_Point]:
    columns = metric_points.c
    query = (
        select(columns.seq, columns.attempt, columns.epoch, columns.value)
        .where(columns.task_id == task_id, columns.name == name, columns.seq > after)
        .order_by(columns.seq)
        .limit(_PAGE)
    )
    return [_Point(*row) for row in connection.execute(query)]


def _buckets(task_id: str, name: str, points: Sequence[_Point]) -> list[dict[str, Any]]:
    """All but those that more points may still come into."""
    runs = [run for _, attempt in groupby(points, key=lambda point: point.attempt) for run in _runs(attempt)]
    if runs and len(runs[-1]) < BUCKET:
        runs.pop()
    return [{"task_id": task_id, "name": name, **_summary(run)} for run in runs]


def _runs(points: Iterator[_Point]) -> Iterator[list[_Point]]:
    while run := list(islice(points, BUCKET)):
        yield run


def _summary(run: Sequence[_Point]) -> dict[str, Any]:
    epochs = [point.epoch for point in run if point.epoch is not None]
    finite = [(point.value, point.seq) for point in run if point.value is not None]
    low = min(finite, default=(None, None))
    high = max(finite, key=lambda each: each[0], default=(None, None))
    return {
        "first_seq": run[0].seq,
        "last_seq": run[-1].seq,
        "points": len(run),
        "attempt": run[0].attempt,
        "epoch_min": min(epochs) if len(epochs) == len(run) else None,
        "epoch_max": max(epochs, default=None),
        "min_value": low[0],
        "min_seq": low[1],
        "max_value": high[0],
        "max_seq": high[1],
        "null_seq": next((point.seq for point in run if point.value is None), None),
    }
