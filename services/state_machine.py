"""The life of a task: which status may follow which, and why. The one place that knows.

                     +-----------------------------------------------+
                     v                                               | interrupted
    pending ---> queued ---> running ---> stopping                   |
       |           |  ^        | | |         |   |                   |
       |           |  |        | | +---------|---|-------------------+
       |           |  |        | v           v   |
       |           |  |        | completed <-+   |
       |           |  |        v                 v
       +-----------+--|---> failed, cancelled <--+
                      |          |
                      +----------+ resumed

`completed` is for good. `failed` and `cancelled` are too, but for somebody who asks to resume. Each return to the
queue begins a new attempt, whose number every line and metric point carries, so that an epoch that is trained
twice is known to be the same epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

from models.schemas import TaskStatus

PENDING, QUEUED, RUNNING, STOPPING = TaskStatus.PENDING, TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.STOPPING
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED

TRANSITIONS: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = {
    PENDING: frozenset({QUEUED, RUNNING, FAILED, CANCELLED}),
    QUEUED: frozenset({RUNNING, FAILED, CANCELLED}),
    RUNNING: frozenset({STOPPING, QUEUED, COMPLETED, FAILED, CANCELLED}),
    STOPPING: frozenset({COMPLETED, FAILED, CANCELLED}),
    COMPLETED: frozenset(),
    FAILED: frozenset({QUEUED}),
    CANCELLED: frozenset({QUEUED}),
}
"""Which status may follow which. From `pending` a task may run at once; only the queue leads back."""

ACCEPTED, WAITING, STARTED, FINISHED = "accepted", "no_free_device", "device_free", "finished"
PLAIN: Final = frozenset({ACCEPTED, WAITING, STARTED, FINISHED})
"""Reasons of a life without incidents. They stand in the history; in a status they would say nothing new."""
USER_STOP, TIMEOUT, ALERT = "user_stop", "timeout", "alert"
INTERRUPTED, RESUMED = "interrupted", "resumed"
MACHINE_LOST = "machine_lost"
"""What the service itself may have against a task. A trainer's end has reasons of its own, such as `exit_code_3`."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A task took a status, for a reason, at a time (UTC), in one of its attempts."""

    status: TaskStatus
    reason: str
    at: datetime
    attempt: int = 1

    def to_json(self) -> dict[str, Any]:
        return {"status": self.status.value, "reason": self.reason, "at": self.at.isoformat(), "attempt": self.attempt}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Transition:
        at = datetime.fromisoformat(stored["at"])
        return cls(TaskStatus(stored["status"]), stored["reason"], at, stored["attempt"])


def usual_reason(status: TaskStatus) -> str:
    """Of a change that an older release has stored without one."""
    return {PENDING: ACCEPTED, QUEUED: WAITING, RUNNING: STARTED, COMPLETED: FINISHED}.get(status, "unknown")


def may_follow(before: TaskStatus, after: TaskStatus) -> bool:
    return after in TRANSITIONS[before]


def restarts(history: Sequence[Transition]) -> int:
    """How often the task was interrupted since somebody last asked for it, by starting or resuming it."""
    recent = takewhile(lambda each: each.reason != RESUMED, reversed(history))
    return sum(each.status is QUEUED and each.reason == INTERRUPTED for each in recent)
