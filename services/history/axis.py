"""Where a point is on the horizontal axis of a chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, Literal

from models.schemas import TaskStatus
from services.storage.series import Point
from services.task_state import TaskState

Axis = Literal["epoch", "step", "time"]
Place = Callable[[Point], float | None]
AXES: Final[tuple[Axis, ...]] = ("epoch", "step", "time")


def began_at(state: TaskState) -> datetime:
    """When a task ran for the first time; when it was accepted, if it never did."""
    runs = (each.at for each in state.history if each.status is TaskStatus.RUNNING)
    return next(runs, state.created_at)


def places(axis: Axis, state: TaskState, points: Sequence[Point], *, first_epoch: float | None = None) -> Place:
    """What gives a point its place on an axis; `None` for one that has none there.

    `time` is in seconds since the task first ran. `epoch` counts epochs, and a step within one counts as its share;
    `step` counts steps over the whole training, also where the log counts them anew in each epoch.

    Args:
        points: of the series, or enough of them to tell how it counts its steps.
        first_epoch: of the log. The steps of an epoch end at its number; in a log that counts from 0, they begin there.
    """
    if axis == "time":
        start = began_at(state).timestamp()
        return lambda point: None if point.at is None else round(point.at - start, 6)
    steps, before = _steps_per_epoch(state, points), 0 if first_epoch == 0 else 1
    if axis == "epoch":
        return lambda point: _epoch(point, steps, before)
    return lambda point: _step(point, steps, before)


def _steps_per_epoch(state: TaskState, points: Sequence[Point]) -> int | None:
    """Of a log that counts steps anew in each epoch; `None` for one that counts on, or counts none."""
    known = [point for point in points if point.step is not None and point.epoch is not None]
    most = max((point.step or 0 for point in known), default=0)
    total = state.latest_metrics.get("total_steps")
    if total and most <= total:
        return int(total)
    restarts = any(
        later.epoch != point.epoch and (later.step or 0) <= (point.step or 0) for point, later in pairwise(known)
    )
    return most if restarts and most else None


def _epoch(point: Point, steps: int | None, before: int) -> float | None:
    if point.epoch is None or point.step is None or not steps:
        return point.epoch
    return round(point.epoch - before + point.step / steps, 6)


def _step(point: Point, steps: int | None, before: int) -> float | None:
    if steps and point.epoch is not None:
        whole = point.epoch - before
        return (whole + 1) * steps if point.step is None else whole * steps + point.step
    return point.step
