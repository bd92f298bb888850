"""Several tasks side by side: their series on one axis, and the table that tells which was better, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.schemas import CommandRequest, ImportRequest, TrainingRequest
from services.history.axis import Axis, began_at
from services.history.goals import Goal, goal_of
from services.history.series import MetricHistory, Series, Window
from services.requests import from_stored_unchecked
from services.storage.series import Point
from services.task_state import TaskState
from services.units import Unit

_NO_SETTINGS = frozenset({"task_id", "name", "description", "priority", "env"})
"""Fields of a request that say nothing about the training, or nothing that others may see."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far one task came in one metric. Values are in the unit of the comparison; lines by their numbers.

    Attributes:
        time_to_best_s: seconds from the first run of the task to the line with its best value.
    """

    last: float | None
    last_id: int
    best: float | None = None
    best_id: int | None = None
    best_epoch: float | None = None
    time_to_best_s: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of every task that has it."""

    metric: str
    unit: Unit | None
    goal: Goal | None
    standings: dict[str, Standing]


class Comparison:
    """Compares tasks. Accuracies are compared as percent, whatever their logs print."""

    def __init__(self, history: MetricHistory) -> None:
        self._history = history

    def series(
        self, states: Sequence[TaskState], names: Iterable[str] | None, axis: Axis, window: Window
    ) -> list[tuple[str, Series]]:
        """The series of all tasks, each with its task's id."""
        wanted = None if names is None else frozenset(names)
        return [
            (state.task_id, _as_percent(series))
            for state in states
            for series in self._history.read(state, wanted, axis, window)
        ]

    def table(self, states: Sequence[TaskState], series: Sequence[tuple[str, Series]]) -> list[Row]:
        """Best and last of each metric, those first that most tasks have.

        Args:
            series: of these tasks, whole. However few of its points are there, its extremes and its last are.
        """
        begins = {state.task_id: began_at(state).timestamp() for state in states}
        rows: dict[str, Row] = {}
        for task_id, each in series:
            if each.points:
                row = rows.setdefault(each.name, Row(each.name, each.unit, goal_of(each.name), {}))
                row.standings[task_id] = _standing(each.points, row.goal, begins[task_id])
        return sorted(rows.values(), key=lambda row: -len(row.standings))

    def differences(self, states: Sequence[TaskState]) -> dict[str, dict[str, Any]]:
        """Fields of the requests that are not the same in all tasks, with the value of each task that has the field."""
        settings = {state.task_id: _settings(state) for state in states}
        fields = dict.fromkeys(field for each in settings.values() for field in each)
        found = {}
        for field in fields:
            values = {task_id: each[field] for task_id, each in settings.items() if field in each}
            first = next(iter(values.values()))
            if len(values) < len(states) or any(value != first for value in values.values()):
                found[field] = values
        return found


def _standing(points: Sequence[Point], goal: Goal | None, begin: float) -> Standing:
    last = points[-1]
    best = _best(points, goal)
    if best is None:
        return Standing(last.value, last.seq)
    time_to_best_s = None if best.at is None else round(best.at - begin, 3)
    return Standing(last.value, last.seq, best.value, best.seq, best.epoch, time_to_best_s)


def _best(points: Sequence[Point], goal: Goal | None) -> Point | None:
    """The first point with the best value."""
    finite = [point for point in points if point.value is not None]
    if not finite or goal is None:
        return None
    sign = 1 if goal == "min" else -1
    return min(finite, key=lambda point: sign * (point.value or 0.0))


def _as_percent(series: Series) -> Series:
    if series.unit != "fraction":
        return series
    points = [point._replace(value=_scaled(point.value)) for point in series.points]
    return replace(series, unit="percent", points=points)


def _scaled(value: float | None) -> float | None:
    """A fraction in percent, without the noise that a product has in its last digits."""
    return None if value is None else float(f"{100 * value:.12g}")


def _settings(state: TaskState) -> dict[str, Any]:
    """What a task was asked to do, defaults included, as far as anybody may know it."""
    request = from_stored_unchecked(state)
    fields: dict[str, Any] = request.model_dump(mode="json", exclude=set(_NO_SETTINGS))
    kind = {TrainingRequest: "training", CommandRequest: "command", ImportRequest: "import"}[type(request)]
    return {"kind": kind, **fields}
