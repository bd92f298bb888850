"""What the writer is asked to do, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from services.log_entry import LogEntry
from services.parsing import Memory
from services.rereading import Rereading
from services.task_state import TaskState


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Insert a task without lines."""

    state: TaskState


@dataclass(frozen=True, slots=True)
class DeleteTask:
    """Remove an ended task, its lines and its points."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Flush:
    """Change nothing: its future says that everything before it is committed."""


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Remember the limits of these devices; `None` forgets one."""

    limits: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Reparse:
    """Replace what a task's lines say by what they say on another reading. A batch of its own.

    `memory` is the new parser's, after the last line that it has read.
    """

    task_id: str
    rereading: Rereading = field(repr=False)
    memory: Memory | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Seal:
    """Make the buckets of these series of a task, which a reader has missed."""

    task_id: str
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Notice:
    """An event that is no line. It comes after the row `after_row` of the log of all tasks."""

    id: int
    after_row: int
    task_id: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Apply:
    """Run statements of another part of the service in the writer's transaction; returns the notices it has written.

    They may run again: after a failure, and after a commit whose answer was lost.
    """

    statements: Callable[[Connection], Sequence[Notice]] = field(repr=False)


Operation = LogEntry | CreateTask | DeleteTask | Flush | SetLimits | Reparse | Seal | Apply


@dataclass(slots=True)
class Committed:
    """What one transaction did to one task.

    Attributes:
        first_row: place of its first line in the log of all tasks; the others follow.
        before: its state before these lines.
        state: its state now.
        entries: the lines that led there, as they are stored.
        frames: the same lines as Server-Sent Events.
        position, memory: of the last line that has any.
        rewritten: its last frames, where a new reading has changed the lines behind them.
    """

    before: TaskState
    state: TaskState
    entries: list[LogEntry] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    first_row: int = 0
    position: int | None = None
    memory: Memory | None = None
    rewritten: list[bytes] | None = None
