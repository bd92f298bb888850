"""What clients have been told. The service may forget none of it, and say nothing else later."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from benchmarks.event_stream import Event

TERMINAL = frozenset({"completed", "failed", "cancelled"})
KILLED = ("failed", "killed_by_signal_9")
INTERRUPTED = ("failed", "interrupted")
MAX_RESTARTS = 3
"""How often a training in a thread of the service begins again, where its request says nothing."""
_EPOCH_FINISHED = re.compile(r"Epoch \[(\d+)/\d+\] finished")


class Promise(StrEnum):
    """What must never happen."""

    TASKS = "acknowledged tasks lost"
    LINES = "lines lost, repeated or renumbered"
    CHECKPOINTS = "checkpoints that do not load"
    ORPHANS = "tasks not terminal, with neither a live trainer nor a place in the queue"
    INTEGRITY = "damaged databases"
    ENDS = "ends that are not true, or have changed"
    ANSWERS = "acknowledged stops and deletions lost"
    REPEATS = "starts that cannot be repeated after their answer was lost"
    STARTS = "services that did not start again"


class Kind(StrEnum):
    PRINTER = "a command that prints numbered lines"
    ENDLESS = "a command that prints them until it is stopped"
    FLOOD = "a command that prints them in bursts"
    PROCESS = "the built-in trainer as a process"
    THREAD = "the built-in trainer in a thread of the service"
    WAITING = "a training that waits in the queue"


@dataclass(slots=True)
class Task:
    """One task, as its clients know it.

    Attributes:
        body: what it was started with.
        total: lines that a command prints before it ends by itself; `None` for others.
        returncode: exit status that it ends with then.
        acknowledged: the service has said that it exists.
        lines: every line that any viewer has seen, by its number: level, message, status.
        end: status and reason, once a client has been told that it ended.
        ended: set together with `end`.
        files_removed: its client has removed what it saved, or is about to.
        interruptions: how often the service was killed while it may have run.
    """

    task_id: str
    kind: Kind
    body: dict[str, Any]
    output_dir: Path
    total: int | None = None
    returncode: int = 0
    acknowledged: bool = False
    stop_asked: bool = False
    stop_acknowledged: bool = False
    trainer_killed: bool = False
    deletion_asked: bool = False
    deletion_acknowledged: bool = False
    files_removed: bool = False
    interruptions: int = 0
    lines: dict[int, tuple[str, str, str | None]] = field(default_factory=dict)
    end: tuple[str, str | None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_built_in(self) -> bool:
        return "command" not in self.body

    @property
    def epochs_finished(self) -> int:
        """The last epoch whose end a viewer has seen; its checkpoint was written before."""
        for _, message, _ in reversed(self.lines.values()):
            if found := _EPOCH_FINISHED.match(message):
                return int(found[1])
        return 0


class Ledger:
    """Attributes:
    tasks: all that were ever started, by id.
    broken: every promise that was broken, with the evidence.
    looked_at: databases that were examined, and checkpoints that were loaded.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.looked_at: Counter[Promise] = Counter()
        self.broken: list[tuple[Promise, str]] = []

    @property
    def active(self) -> list[Task]:
        """Tasks that exist, and of whose end nobody has been told."""
        return [task for task in self.tasks.values() if task.acknowledged and task.end is None]

    def break_(self, promise: Promise, evidence: str) -> None:
        self.broken.append((promise, evidence))
        print(f"  BROKEN: {promise}: {evidence}")

    def counts(self) -> Counter[Promise]:
        return Counter(promise for promise, _ in self.broken)

    def saw_line(self, task: Task, event: Event, *, after: int) -> None:
        """A viewer whose last line was `after` has got `event`."""
        if event.id != after + 1:
            self.break_(Promise.LINES, f"{task.task_id}: a viewer got line {event.id} after line {after}")
        entry = event.entry
        line = (entry["level"], entry["message"], entry.get("status"))
        if (known := task.lines.setdefault(event.id, line)) != line:
            self.break_(Promise.LINES, f"{task.task_id}: line {event.id} was {known} and is {line}")
        if line[2] in TERMINAL:
            self.heard_end(task, line[2], entry.get("reason"))

    def heard_end(self, task: Task, status: str, reason: str | None) -> None:
        """A client was told that the task has ended, and how."""
        if task.end is None:
            task.end = (status, reason)
            task.ended.set()
            if problem := untrue(task):
                self.break_(Promise.ENDS, f"{task.task_id}, {task.kind}: {problem}")
        elif task.end != (status, reason):
            self.break_(Promise.ENDS, f"{task.task_id} was {task.end} and is {(status, reason)}")


def untrue(task: Task) -> str | None:
    """What is wrong with the end that a task is said to have had; `None` where it can be true."""
    assert task.end is not None
    status = task.end[0]
    if task.trainer_killed and not task.stop_asked:
        return None if task.end == KILLED else f"its trainer was killed by SIGKILL, but it is {task.end}"
    if task.stop_asked and status == "cancelled":
        return None
    if task.end == INTERRUPTED and task.kind is Kind.THREAD:
        is_early = task.interruptions <= MAX_RESTARTS
        return f"it is {task.end} after {task.interruptions} ends of the service" if is_early else None
    if task.stop_asked and task.end == INTERRUPTED:
        return f"it was stopped as its client had asked, but it is {task.end}"
    allowed = {("completed", None)} if task.returncode == 0 else {("failed", f"exit_code_{task.returncode}")}
    return None if task.end in allowed else f"nobody stopped or killed it, but it is {task.end}"
