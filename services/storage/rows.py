"""Rows of the tables from and to the objects that the service works with. No SQL here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import RowMapping

from models.schemas import TaskStatus
from services.log_entry import LogEntry, StatusChange
from services.task_state import TaskState

_CARRIED = frozenset({"epoch", "total_epochs", "total_steps"})
"""Coordinates of a point, not series of their own."""

_EVERY_LINE = ("device", "status", "reason", "error", "progress", "current_epoch", "total_epochs", "latest_metrics",
               "stage", "last_seq", "updated_at")  # fmt: skip
_ONCE = ("task_id", "task_type", "name", "description", "priority", "request", "output_dir", "created_at")


def new_task_row(state: TaskState) -> dict[str, Any]:
    """All columns of a task."""
    return {
        **{name: getattr(state, name) for name in (*_ONCE, *_EVERY_LINE)},
        "request": dict(state.request),
        "latest_metrics": dict(state.latest_metrics),
        "warnings": list(state.warnings),
    }


def changed_task_row(state: TaskState) -> dict[str, Any]:
    """The columns that a log line can change, and the bind name of the key."""
    row = {name: getattr(state, name) for name in _EVERY_LINE}
    return {**row, "latest_metrics": dict(state.latest_metrics), "key": state.task_id}


def task_from_row(row: RowMapping) -> TaskState:
    values = {name: row[name] for name in (*_ONCE, *_EVERY_LINE)}
    epoch = values["current_epoch"]
    values["current_epoch"] = int(epoch) if epoch is not None and epoch.is_integer() else epoch
    return TaskState(**{**values, "status": TaskStatus(row["status"]), "warnings": tuple(row["warnings"])})


def entry_row(entry: LogEntry) -> dict[str, Any]:
    change = entry.change
    return {
        "task_id": entry.task_id,
        "seq": entry.seq,
        "timestamp": entry.timestamp,
        "level": entry.level,
        "message": entry.message,
        "metrics": dict(entry.metrics) if entry.metrics else None,
        "step": entry.step,
        "stage": entry.stage,
        "status": change.status.value if change else None,
        "reason": change.reason if change else None,
    }


def entry_from_row(row: RowMapping) -> LogEntry:
    change = None if row["status"] is None else StatusChange(TaskStatus(row["status"]), row["reason"])
    return LogEntry(
        task_id=row["task_id"],
        level=row["level"],
        message=row["message"],
        metrics=row["metrics"],
        step=row["step"],
        stage=row["stage"],
        change=change,
        timestamp=row["timestamp"],
        seq=row["seq"],
    )


def point_rows(entry: LogEntry) -> Iterator[dict[str, Any]]:
    """One row for each metric of a line; a value that was not finite is null."""
    if not entry.metrics:
        return
    epoch = entry.metrics.get("epoch")
    for name, value in entry.metrics.items():
        if name not in _CARRIED:
            yield {
                "task_id": entry.task_id,
                "name": name,
                "seq": entry.seq,
                "epoch": epoch,
                "step": entry.step,
                "value": value,
            }
