"""The series of one task: what a chart is drawn from, however long they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from services.history.axis import Axis, Place, places
from services.history.downsample import pick
from services.log_entry import CARRIED
from services.storage.buckets import BUCKET
from services.storage.series import Bucket, Point, SeriesStore
from services.task_state import TaskState
from services.units import Unit, units_of

LAST_LINE = 2**63 - 1
FIRST_METRICS = 8
RAW_BUCKETS = 512
"""A series with so few buckets in the range is read point by point: they would give a chart too few points."""
RAW_POINTS = 40_000
"""Points without a bucket after which the writer is asked to make some."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which points are wanted: those between two lines, and at most so many of each series.

    `all_attempts` includes what a later attempt has done again.
    """

    after: int = 0
    before: int = LAST_LINE
    max_points: int = 2000
    all_attempts: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one metric, oldest first, with their places on the axis.

    Attributes:
        total: how many there are in the window, before any were left out.
        place: gives a point its place on the axis.
    """

    name: str
    unit: Unit | None
    total: int
    points: Sequence[Point]
    place: Place


class MetricHistory:
    """Reads the series of tasks.

    Args:
        store: where they are.
        ask_for_buckets: called with a task and the series of it that are long and have none.
    """

    def __init__(self, store: SeriesStore, ask_for_buckets: Callable[[str, Sequence[str]], None]) -> None:
        self._store = store
        self._ask_for_buckets = ask_for_buckets

    def read(self, state: TaskState, names: Iterable[str] | None, axis: Axis, window: Window) -> list[Series]:
        """The series of these names, or of all, as far as the task has them.

        Raises:
            StorageUnavailable: the store cannot be read.
        """
        found = []
        window = replace(window, before=min(window.before, state.last_seq + 1))  # what is newer has a newer cursor
        superseded = self.superseded(state, window)
        units = units_for(state)
        first_epoch = self.first_epoch(state) if axis != "time" else None
        for name in names_of(state, names):
            total, points = self._read(state.task_id, name, window, superseded)
            place = places(axis, state, points, first_epoch=first_epoch)
            found.append(Series(name, units.get(name), total, points, place))
        return found

    def first_epoch(self, state: TaskState) -> float | None:
        """With which number a log of somebody else's trainer begins to count: asked of the metrics that came first."""
        names = (name for name in state.latest_metrics if name not in CARRIED)
        return self._store.first_epoch(state.task_id, islice(names, FIRST_METRICS)) if state.is_foreign else None

    def superseded(self, state: TaskState, window: Window) -> Superseded:
        """What later attempts have done again, where that is not wanted."""
        is_needed = state.attempt > 1 and not window.all_attempts
        return Superseded(self._store.first_epochs(state.task_id) if is_needed else {})

    def export(self, state: TaskState, name: str, superseded: Superseded) -> Iterator[Point]:
        """A whole series, a page at a time."""
        return (point for point in self._store.every_point(state.task_id, name) if not superseded.covers(point))

    def _read(self, task_id: str, name: str, window: Window, superseded: Superseded) -> tuple[int, list[Point]]:
        buckets = self._store.buckets(task_id, name, window.after, window.before)
        if len(buckets) <= RAW_BUCKETS and 2 * len(buckets) < window.max_points:
            points = self._store.points(task_id, name, window.after, window.before)
            if len(points) > RAW_POINTS:
                self._ask_for_buckets(task_id, [name])
            points = [point for point in points if not superseded.covers(point)]
            return len(points), [points[index] for index in pick([point.value for point in points], window.max_points)]
        raw = self._store.points(task_id, name, window.after, buckets[0].first_seq)
        raw += self._store.points(task_id, name, buckets[-1].last_seq, window.before)
        whole = buckets
        if superseded.first_epochs:
            whole = [bucket for bucket in buckets if not superseded.covers_some(bucket)]
            for bucket in buckets:
                if superseded.covers_some(bucket) and not superseded.covers_all(bucket):
                    raw += self._store.points(task_id, name, bucket.first_seq - 1, bucket.last_seq + 1)
        ends = self._store.points_at(task_id, name, [buckets[0].first_seq, buckets[-1].last_seq])
        counted = [point for point in raw if not superseded.covers(point)]
        candidates = {point.seq: point.value for point in (*counted, *ends) if not superseded.covers(point)}
        for bucket in whole:
            if bucket.min_seq is not None and bucket.max_seq is not None:
                candidates[bucket.min_seq] = bucket.min_value
                candidates[bucket.max_seq] = bucket.max_value
            if bucket.null_seq is not None:
                candidates[bucket.null_seq] = None
        lines = sorted(candidates)
        picked = pick([candidates[line] for line in lines], window.max_points)
        points = self._store.points_at(task_id, name, [lines[index] for index in picked])
        return sum(bucket.points for bucket in whole) + len(counted), points


@dataclass(frozen=True, slots=True)
class Superseded:
    """Points of epochs that a later attempt has trained again count no more.

    Attributes:
        first_epochs: of each attempt behind the first one.
    """

    first_epochs: dict[int, float]

    def limit(self, attempt: int) -> float | None:
        """The first epoch of an attempt that a later one has done again."""
        return min((epoch for later, epoch in self.first_epochs.items() if later > attempt), default=None)

    def covers(self, point: Point) -> bool:
        if not self.first_epochs or point.epoch is None:
            return False
        limit = self.limit(point.attempt)
        return limit is not None and point.epoch >= limit

    def covers_all(self, bucket: Bucket) -> bool:
        limit = self.limit(bucket.attempt)
        return limit is not None and bucket.epoch_min is not None and bucket.epoch_min >= limit

    def covers_some(self, bucket: Bucket) -> bool:
        limit = self.limit(bucket.attempt)
        return limit is not None and bucket.epoch_max is not None and bucket.epoch_max >= limit


def names_of(state: TaskState, names: Iterable[str] | None = None) -> list[str]:
    """The metrics of a task that are series, in the order in which the log brought them."""
    wanted = None if names is None else set(names)
    return [name for name in state.latest_metrics if name not in CARRIED and (wanted is None or name in wanted)]


def units_for(state: TaskState) -> dict[str, Unit]:
    """The unit of each accuracy. Those of the built-in trainer are percent."""
    percents = state.percents if state.is_foreign else frozenset({"train", "evaluation"})
    return units_of(state.latest_metrics, percents)


assert RAW_BUCKETS * BUCKET <= RAW_POINTS
