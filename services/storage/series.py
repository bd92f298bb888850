"""Reads of metric points: a series whole, or the extremes of a long one (`services.storage.buckets`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, select

from services.storage.store import Reader
from services.storage.tables import metric_buckets, metric_points

_LOOKUPS = 2000
_PAGE = 5000


class Point(NamedTuple):
    """One value of a metric. `seq` is its line, `at` the time of that line in seconds since 1970."""

    seq: int
    epoch: float | None
    step: int | None
    value: float | None
    attempt: int
    at: float | None


class Bucket(NamedTuple):
    """A run of points of one attempt, from line `first_seq` to line `last_seq`, and which of them are extreme.

    A `None` among the lines says that there is no such point: all are finite, or none is. Without `epoch_min` some of
    them have no epoch.
    """

    first_seq: int
    last_seq: int
    points: int
    attempt: int
    epoch_min: float | None
    epoch_max: float | None
    min_seq: int | None
    min_value: float | None
    max_seq: int | None
    max_value: float | None
    null_seq: int | None


_POINT = tuple(metric_points.c[name] for name in Point._fields)
_BUCKET = tuple(metric_buckets.c[name] for name in Bucket._fields)


class SeriesStore(Reader):
    """Points and buckets of any task."""

    def buckets(self, task_id: str, name: str, after: int, before: int) -> list[Bucket]:
        """Those that lie wholly between the lines `after` and `before`, oldest first."""
        columns = metric_buckets.c
        query = (
            select(*_BUCKET)
            .where(columns.task_id == task_id, columns.name == name)
            .where(columns.last_seq < before, columns.first_seq > after)
            .order_by(columns.last_seq)
        )
        with self._reading() as connection:
            return [Bucket(*row) for row in connection.execute(query)]

    def points(self, task_id: str, name: str, after: int, before: int) -> list[Point]:
        """All between the lines `after` and `before`, oldest first."""
        return self._points(_series(task_id, name, metric_points.c.seq > after, metric_points.c.seq < before))

    def points_at(self, task_id: str, name: str, lines: Sequence[int]) -> list[Point]:
        """The points of these lines, oldest first."""
        found: list[Point] = []
        for start in range(0, len(lines), _LOOKUPS):
            found += self._points(_series(task_id, name, metric_points.c.seq.in_(lines[start : start + _LOOKUPS])))
        return found

    def every_point(self, task_id: str, name: str) -> Iterator[Point]:
        """The whole series, a page at a time."""
        after = 0
        while page := self._points(_series(task_id, name, metric_points.c.seq > after).limit(_PAGE)):
            yield from page
            after = page[-1].seq

    def first_epochs(self, task_id: str) -> dict[int, float]:
        """The first epoch of each attempt of which there are points with an epoch."""
        columns = metric_points.c
        query = select(columns.attempt, func.min(columns.epoch)).where(columns.task_id == task_id, columns.attempt > 1)
        with self._reading() as connection:
            found = connection.execute(query.group_by(columns.attempt))
            return {attempt: epoch for attempt, epoch in found if epoch is not None}

    def first_epoch(self, task_id: str, names: Iterable[str]) -> float | None:
        """The lowest epoch of the first points of these series."""
        columns = metric_points.c
        with self._reading() as connection:
            firsts = [
                connection.scalar(
                    select(columns.epoch)
                    .where(columns.task_id == task_id, columns.name == name)
                    .order_by(columns.seq)
                    .limit(1)
                )
                for name in names
            ]
        return min((epoch for epoch in firsts if epoch is not None), default=None)

    def _points(self, query: Select[Any]) -> list[Point]:
        with self._reading() as connection:
            return [Point(*row) for row in connection.execute(query)]


def _series(task_id: str, name: str, *conditions: ColumnElement[bool]) -> Select[Any]:
    columns = metric_points.c
    return select(*_POINT).where(columns.task_id == task_id, columns.name == name, *conditions).order_by(columns.seq)
