"""What a task's log says about the task: a pure fold, so that status can never disagree with the lines.

    TaskState.after(entry) -> (next TaskState, the entry with its sequence number and stage)

The writer folds inside the transaction that stores the lines, and stores the state with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from models.schemas import Stage, TaskResponse, TaskStatus, TrainingMetrics
from services.log_entry import LogEntry, Metrics, Number, local_time

TRANSITIONS: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset(
        {TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.FAILED, TaskStatus.CANCELLED},
    ),
    TaskStatus.QUEUED: frozenset({TaskStatus.RUNNING, TaskStatus.FAILED, TaskStatus.CANCELLED}),
    TaskStatus.RUNNING: frozenset(
        {TaskStatus.STOPPING, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED},
    ),
    TaskStatus.STOPPING: frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}
"""Which status may follow which. The last three are final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task as of its line `last_seq`. Immutable: a reader holds a consistent moment."""

    task_id: str
    request: Mapping[str, Any]
    output_dir: str
    device: str
    created_at: datetime
    updated_at: datetime
    task_type: str = "training"
    status: TaskStatus = TaskStatus.PENDING
    reason: str | None = None
    error: str | None = None
    progress: int = 0
    current_epoch: Number | None = None
    total_epochs: int | None = None
    latest_metrics: Metrics = field(default_factory=dict)
    stage: str = Stage.TRAINING.value
    name: str | None = None
    description: str | None = None
    priority: int = 5
    warnings: tuple[str, ...] = ()
    last_seq: int = 0

    def after(self, entry: LogEntry) -> tuple[TaskState, LogEntry]:
        """This state with one more line, and the line as it is stored: numbered, and always with a stage."""
        stage = entry.stage or self.stage
        changes: dict[str, Any] = {"last_seq": self.last_seq + 1, "updated_at": entry.timestamp, "stage": stage}
        if entry.metrics:
            changes |= self._merge_metrics(entry)
        if entry.change is not None:
            assert entry.change.status in TRANSITIONS[self.status], (
                f"{self.task_id}: {self.status} cannot become {entry.change.status}"
            )
            changes |= {"status": entry.change.status, "reason": entry.change.reason, "error": entry.change.error}
            if entry.change.device is not None:
                changes["device"] = entry.change.device
            if entry.change.status is TaskStatus.COMPLETED:
                changes["progress"] = 100
        return replace(self, **changes), replace(entry, seq=self.last_seq + 1, stage=stage)

    def _merge_metrics(self, entry: LogEntry) -> dict[str, Any]:
        metrics = entry.metrics
        assert metrics is not None
        merged = {**self.latest_metrics, **metrics}
        epoch, total = metrics.get("epoch"), metrics.get("total_epochs")
        current_epoch = self.current_epoch if epoch is None else epoch
        total_epochs = self.total_epochs if total is None else int(total)
        return {
            "latest_metrics": merged,
            "current_epoch": current_epoch,
            "total_epochs": total_epochs,
            "progress": max(self.progress, _progress(entry, merged, current_epoch, total_epochs)),
        }

    def to_response(self, *, metrics: frozenset[str] | None = None, storage_degraded: bool = False) -> TaskResponse:
        """The wire form: optional fields only where they are set, metrics narrowed to `metrics` if given."""
        selected = {name: value for name, value in self.latest_metrics.items() if metrics is None or name in metrics}
        optional: dict[str, Any] = {
            "current_epoch": self.current_epoch,
            "total_epochs": self.total_epochs,
            "name": self.name,
            "description": self.description,
            "priority": self.priority if "priority" in self.request else None,
            "reason": self.reason,
            "error": self.error,
            "warnings": list(self.warnings) or None,
            "storage": "degraded" if storage_degraded else None,
        }
        return TaskResponse(
            task_id=self.task_id,
            task_type=self.task_type,
            status=self.status,
            progress=self.progress,
            device=self.device,
            latest_metrics=TrainingMetrics(**selected),
            created_at=local_time(self.created_at),
            updated_at=local_time(self.updated_at),
            **{name: value for name, value in optional.items() if value is not None},
        )


def _progress(entry: LogEntry, merged: Metrics, epoch: Number | None, total: int | None) -> int:
    """Percent of all epochs; 100 is kept for a completed task.

    Within an epoch the share of its training steps counts; from its first validation line on the epoch
    counts as done, which is what the published status example shows (epoch 3 of 10 validated: 30).
    """
    if not total or epoch is None or epoch <= 0:
        return 0
    if entry.stage in (Stage.VALIDATION, Stage.EPOCH_END, Stage.COMPLETED):
        done = float(epoch)
    else:
        steps = merged.get("total_steps")
        share = min(1.0, entry.step / steps) if entry.step is not None and steps else 0.0
        done = epoch - 1 + share
    return int(max(0.0, min(99.0, 100 * done / total)))
