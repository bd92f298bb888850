"""Tasks and lines with whatever a test does not care about filled in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from models.schemas import TaskStatus
from services.log_entry import LogEntry, StatusChange
from services.state_machine import usual_reason
from services.task_state import TaskState

MOMENT = datetime(2025, 10, 29, 2, 0, tzinfo=UTC)


def task_state(task_id: str = "t", **changes: Any) -> TaskState:
    """A task that has just been accepted."""
    return TaskState(
        **{
            "task_id": task_id,
            "request": {"model": "resnet18"},
            "output_dir": f"/runs/{task_id}",
            "device": "cpu",
            "created_at": MOMENT,
            "updated_at": MOMENT,
            **changes,
        }
    )


def line(message: str = "a line", task_id: str = "t", **changes: Any) -> LogEntry:
    return LogEntry(**{"task_id": task_id, "level": "INFO", "message": message, **changes})


def turn(
    status: TaskStatus, task_id: str = "t", reason: str | None = None, *, attempt: int = 0, **change: str | None
) -> LogEntry:
    """The line with which a task takes a status, for its usual reason if no other is given."""
    why = reason or usual_reason(status)
    return line(f"now {status}", task_id, change=StatusChange(status, why, **change), attempt=attempt)


def fold(state: TaskState, *entries: LogEntry) -> TaskState:
    return state.after(entries)[0]
