"""Answers about the metrics of a task's whole life."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.schemas import TaskStatus

Unit = Literal["percent", "fraction"]


class MetricSeries(BaseModel):
    """One metric over time, column by column; all columns have the same length."""

    name: str
    unit: Unit | None = Field(default=None, description="of an accuracy; left out for other metrics")
    total: int = Field(description="points that there are in the range; fewer are answered where they were too many")
    ids: list[int] = Field(description="the line of the log that each value was read from")
    x: list[float | None] = Field(description="place on the axis; null where the point has none")
    values: list[float | None] = Field(description="null: not finite; the line says what it was")
    epochs: list[float | None] | None = Field(default=None, description="left out where no line names an epoch")
    attempts: list[int] | None = Field(default=None, description="left out where the task has run once")


class MetricsResponse(BaseModel):
    """Answer of `GET /api/v2/training/{task_id}/metrics`."""

    task_id: str
    x: Literal["epoch", "step", "time"]
    revision: int = Field(description="grows when the log is read anew: then read from the start, without `after`")
    last_id: int = Field(description="cursor: ask again with `after` to get what is new")
    series: list[MetricSeries]


class ComparedTask(BaseModel):
    task_id: str
    name: str | None = None
    status: TaskStatus
    model: str | None = None
    created_at: datetime = Field(description="local time, as in the status")
    progress: int
    duration_s: float | None = Field(default=None, description="seconds from its first run to its end, or to now")


class ComparedSeries(MetricSeries):
    task_id: str


class ComparedValue(BaseModel):
    """How far one task came in one metric."""

    best: float | None = Field(default=None, description="left out where it is not known which values are good")
    best_id: int | None = Field(default=None, description="line of the log")
    best_epoch: float | None = None
    time_to_best_s: float | None = Field(default=None, description="seconds from the first run of the task")
    last: float | None
    last_id: int


class ComparedMetric(BaseModel):
    """One row of the table."""

    metric: str
    unit: Unit | None = None
    goal: Literal["min", "max"] | None = Field(default=None, description="which values are good, where that is known")
    tasks: dict[str, ComparedValue] = Field(description="of each task that has the metric")


class Difference(BaseModel):
    """A field of the requests that is not the same in all tasks."""

    field: str
    values: dict[str, Any] = Field(description="of each task whose request has the field; defaults count")


class ComparisonResponse(BaseModel):
    """Answer of `GET /api/v2/training/compare`. Accuracies are percent, whatever the logs print."""

    model_config = ConfigDict(protected_namespaces=())

    x: Literal["epoch", "step", "time"]
    tasks: list[ComparedTask]
    series: list[ComparedSeries]
    table: list[ComparedMetric]
    differences: list[Difference]
