"""What a task's log says about the task: a pure fold, so that status can never disagree with the lines.

    TaskState.after(entries) -> (next TaskState, the entries with their sequence numbers and stages)

The writer folds inside the transaction that stores the lines, and stores the state with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from models.schemas import Stage, StatusTransition, TaskResponse, TaskStatus, TrainingMetrics
from services.log_entry import SAMPLED, LogEntry, Metrics, Number, StatusChange, local_time
from services.state_machine import PLAIN, Transition, may_follow
from services.units import percent_families, units_of

TRAINING, IMPORT = "training", "import"
"""Types of tasks. A command is a training."""
MAX_NAMES = 5_000
"""Metrics of a task whose names its log has made up: one that puts a count or an address into each name would have them
grow without end. Published ones, those of the service's own samples and those of own patterns are not counted."""
_KNOWN = frozenset(TrainingMetrics.model_fields) | SAMPLED
_NAMED_GROUP = re.compile(r"\(\?P?<(\w+)>")
_TOO_MANY = "Too many names of metrics: "


def too_many_names(first: str) -> str:
    """The warning of a task; `first` is the first name that is left out."""
    return f"{_TOO_MANY}the values of {first!r} and of further names stay in their lines, and have no history."


def is_of_too_many_names(warning: str) -> bool:
    return warning.startswith(_TOO_MANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task as of its line `last_seq`. Immutable: a reader holds a consistent moment.

    `request` may hold secrets of a command's environment. `percents` are the families of accuracies that
    the log prints as percent (`services.units`). `attempt` counts the runs of the task from 1,
    `revision` how often its lines have been read again. `removed_until` is the last of the lines that were removed
    because they were old.
    """

    task_id: str
    request: Mapping[str, Any] = field(repr=False)
    output_dir: str
    device: str
    created_at: datetime
    updated_at: datetime
    task_type: str = TRAINING
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
    percents: frozenset[str] = frozenset()
    attempt: int = 1
    history: tuple[Transition, ...] = ()
    revision: int = 0
    last_seq: int = 0
    removed_until: int | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether its log is that of a trainer that is not ours."""
        return self.task_type == IMPORT or "command" in self.request

    def after(self, entries: Sequence[LogEntry]) -> tuple[TaskState, list[LogEntry]]:
        """This state with more lines, and the lines as they are stored: numbered, and always with a stage."""
        fold, seq, stage = _Fold(self), self.last_seq, self.stage
        stored = []
        for entry in entries:
            seq += 1
            stage = entry.stage or stage
            fold.attempt = entry.attempt or fold.attempt
            metrics = fold.kept(entry.metrics) if entry.metrics else entry.metrics
            stored.append(entry.as_stored(seq, stage, fold.attempt, metrics))
            if metrics:
                fold.merge(entry, metrics)
            if entry.change is not None:
                fold.turn(entry.change, entry.timestamp)
            if entry.warns:
                fold.warnings = (*fold.warnings, entry.message)
            if entry.priority is not None:
                fold.prefer(entry.priority)
        if not stored:
            return self, stored
        return replace(self, last_seq=seq, stage=stage, updated_at=stored[-1].timestamp, **fold.changes()), stored

    def to_response(
        self,
        *,
        metrics: frozenset[str] | None = None,
        storage_degraded: bool = False,
        with_history: bool | None = False,
    ) -> TaskResponse:
        """The wire form: optional fields only where they are set, metrics narrowed to `metrics` if given.

        With `None` for `with_history` it is there where it says something: not while a task waits, runs and
        completes as it should.
        """
        is_eventful = any(each.reason not in PLAIN for each in self.history)
        selected = {name: value for name, value in self.latest_metrics.items() if metrics is None or name in metrics}
        optional: dict[str, Any] = {
            "current_epoch": self.current_epoch,
            "total_epochs": self.total_epochs,
            "name": self.name,
            "description": self.description,
            "priority": self.priority if "priority" in self.request else None,
            "reason": None if self.reason in PLAIN else self.reason,
            "error": self.error,
            "attempt": self.attempt if self.attempt > 1 else None,
            "history": [_on_wire(each) for each in self.history]
            if with_history or (with_history is None and is_eventful)
            else None,
            "warnings": list(self.warnings) or None,
            "units": (units_of(selected, self.percents) or None) if self.is_foreign else None,
            "storage": "degraded" if storage_degraded else None,
            "removed_until": self.removed_until,
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


def _on_wire(transition: Transition) -> StatusTransition:
    return StatusTransition(
        status=transition.status, reason=transition.reason, at=transition.at.astimezone(), attempt=transition.attempt
    )


class _Fold:
    """The parts of a state that lines change, while they are being read. Its fields are those of `TaskState`."""

    __slots__ = (
        *("attempt", "current_epoch", "device", "error", "history", "latest_metrics", "percents", "progress"),
        *("priority", "reason", "request", "status", "total_epochs", "warnings"),
    )

    def __init__(self, state: TaskState) -> None:
        self.attempt = state.attempt
        self.history = state.history
        self.status = state.status
        self.reason = state.reason
        self.error = state.error
        self.device = state.device
        self.progress = state.progress
        self.current_epoch = state.current_epoch
        self.total_epochs = state.total_epochs
        self.latest_metrics = state.latest_metrics
        self.percents = state.percents
        self.warnings = state.warnings
        self.priority = state.priority
        self.request = state.request

    def changes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def kept(self, metrics: Metrics) -> Metrics:
        """Without new names where the task has `MAX_NAMES` of those that a log has made up."""
        if len(self.latest_metrics) + len(metrics) <= MAX_NAMES:
            return metrics
        known = self._asked_for()
        made_up = [name for name in metrics if name not in self.latest_metrics and name not in known]
        room = max(0, MAX_NAMES - len(self.latest_metrics.keys() - known)) if made_up else 0
        if len(made_up) <= room:
            return metrics
        if not any(map(is_of_too_many_names, self.warnings)):
            self.warnings = (*self.warnings, too_many_names(made_up[room]))
        left_out = frozenset(made_up[room:])
        return {name: value for name, value in metrics.items() if name not in left_out}

    def _asked_for(self) -> frozenset[str]:
        """Metrics of own patterns, as far as those say their names."""
        found = set()
        for definition in self.request.get("metric_definitions") or ():
            found.update([definition["name"]] if definition.get("name") else _NAMED_GROUP.findall(definition["regex"]))
        return _KNOWN | found

    def merge(self, entry: LogEntry, metrics: Metrics) -> None:
        self.latest_metrics = {**self.latest_metrics, **metrics}
        epoch, total = metrics.get("epoch"), metrics.get("total_epochs")
        begins_earlier = False
        if epoch is not None:
            begins_earlier = self.attempt > 1 and self.current_epoch is not None and epoch < self.current_epoch
            self.current_epoch = epoch if isinstance(epoch, float) else int(float(epoch))  # as it is stored
        if total is not None:
            self.total_epochs = int(total)
        done = _progress(entry, self.latest_metrics, self.current_epoch, self.total_epochs)
        self.progress = done if begins_earlier else max(self.progress, done)
        percents = percent_families(metrics, entry.percents)
        if not percents <= self.percents:
            self.percents |= percents

    def prefer(self, priority: int) -> None:
        """As if it had been asked for with this priority."""
        self.priority, self.request = priority, {**self.request, "priority": priority}

    def turn(self, change: StatusChange, at: datetime) -> None:
        assert may_follow(self.status, change.status), f"{self.status} cannot become {change.status}"
        self.status, self.reason, self.error = change.status, change.reason, change.error
        self.history = (*self.history, Transition(change.status, change.reason, at, self.attempt))
        self.device = change.device or self.device
        if change.status is TaskStatus.COMPLETED:
            self.progress = 100


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
