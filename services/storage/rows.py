"""Rows of the tables from and to the objects that the service works with. No SQL here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import ColumnElement, RowMapping

from models.schemas import TaskStatus
from services.log_entry import CARRIED, LogEntry, StatusChange
from services.state_machine import Transition, usual_reason
from services.storage.operations import Committed
from services.storage.tables import tasks
from services.task_state import TaskState

_CHANGING = ("device", "status", "reason", "error", "progress", "current_epoch", "total_epochs", "latest_metrics",
             "stage", "last_seq", "updated_at", "request", "warnings", "percents", "attempt", "history",
             "priority", "revision", "removed_until")  # fmt: skip
_ONCE = ("task_id", "task_type", "name", "description", "output_dir", "created_at")
_AS_JSON: Mapping[str, Callable[[Any], Any]] = {
    "latest_metrics": dict,
    "request": dict,
    "warnings": list,
    "percents": sorted,
    "history": lambda history: [each.to_json() for each in history],
}


def new_task_row(state: TaskState) -> dict[str, Any]:
    """All columns of a task that has no lines yet."""
    return _task_columns(state, (*_ONCE, *_CHANGING))


def changed_task_row(task: Committed) -> dict[str, Any]:
    """The columns that a transaction has changed, so that large ones are seldom written; and the bind name of the key.

    Only now the parser's memory becomes JSON: of all lines of a transaction the last one's is kept.
    """
    changed = [name for name in _CHANGING if getattr(task.state, name) is not getattr(task.before, name)]
    row = _task_columns(task.state, changed)
    if task.position is not None:
        row["log_position"] = task.position
        row["parser_memory"] = None
    if task.memory is not None:
        row["parser_memory"] = task.memory.to_json()
    return {**row, "key": task.state.task_id}


def _task_columns(state: TaskState, fields: Iterable[str]) -> dict[str, Any]:
    return {name: _AS_JSON[name](getattr(state, name)) if name in _AS_JSON else getattr(state, name) for name in fields}


def state_columns() -> list[ColumnElement[Any]]:
    """What `task_from_row` needs. The rest is large."""
    return [tasks.c[name] for name in (*_ONCE, *_CHANGING)]


def task_from_row(row: RowMapping) -> TaskState:
    values = {name: row[name] for name in (*_ONCE, *_CHANGING)}
    epoch = values["current_epoch"]
    values["current_epoch"] = int(epoch) if epoch is not None and epoch.is_integer() else epoch
    values["status"] = TaskStatus(values["status"])
    values["warnings"] = tuple(values["warnings"])
    values["percents"] = frozenset(values["percents"] or ())
    values["history"] = tuple(Transition.from_json(each) for each in values["history"] or ())
    return TaskState(**values)


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
        "parsed": entry.parsed,
        "attempt": entry.attempt,
    }


def entry_from_row(row: RowMapping) -> LogEntry:
    status = None if row["status"] is None else TaskStatus(row["status"])
    change = None if status is None else StatusChange(status, row["reason"] or usual_reason(status))
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
        attempt=row["attempt"],
        parsed=row["parsed"],
    )


def point_rows(entry: LogEntry) -> Iterator[dict[str, Any]]:
    """One row for each metric of a line; a value that was not finite is null."""
    if not entry.metrics:
        return
    epoch, at = entry.metrics.get("epoch"), entry.timestamp.timestamp()
    for name, value in entry.metrics.items():
        if name not in CARRIED:
            yield {
                "task_id": entry.task_id,
                "name": name,
                "seq": entry.seq,
                "epoch": epoch,
                "step": entry.step,
                "value": value,
                "attempt": entry.attempt,
                "at": at,
            }
