"""A task that has not ended, as the service that runs it sees it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from models.schemas import AnyRequest, TaskStatus
from services.executors.base import Executor
from services.log_handler import TrainingLogHandler


@dataclass(slots=True)
class LiveTraining:
    """What the service knows about a task beyond its committed state: how far it has been told to go.

    Attributes:
        attempt: which run of the task this is.
        restarts: how often the service has let it begin again by itself.
        is_resumed: an earlier service process has begun this run.
        stop_reason: why it is to stop, once it is.
        waits_since: when it came into the queue of this service (monotonic seconds).
    """

    request: AnyRequest
    output_dir: Path
    status: TaskStatus
    executor: Executor
    handler: TrainingLogHandler
    attempt: int = 1
    restarts: int = 0
    position: int = 0
    is_resumed: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    stop_reason: str = ""
    thread: threading.Thread | None = None
    waits_since: float = field(default_factory=time.monotonic)

    @property
    def time_limit(self) -> float | None:
        """Seconds that it may stay in the status that it has."""
        if self.status is TaskStatus.RUNNING:
            return self.request.max_runtime_s
        return self.request.max_queue_s if self.status in (TaskStatus.PENDING, TaskStatus.QUEUED) else None

    @property
    def overstay(self) -> str:
        """What it did for longer than that, in a sentence."""
        if self.stop_reason or self.status is TaskStatus.RUNNING:
            return f"It has run for longer than max_runtime_s allows ({self.request.max_runtime_s:g} s)."
        return f"It has waited for longer than max_queue_s allows ({self.request.max_queue_s:g} s)."
