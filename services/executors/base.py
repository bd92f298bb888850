"""What `TrainingService` asks of a place where a trainer can run."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from models.schemas import CommandRequest, ImportRequest, TrainingRequest

TRAINING_NICENESS = 10
"""Measured on 2 cores: requests are answered twice as fast beside a training, which keeps its full speed."""


WITHHELD = ("API_TOKENS", "DATABASE_URL", "RAY_AUTH_TOKEN")
"""Variables of the service's environment that are no trainer's business."""


Place = Literal["thread", "process", "cluster"]


class Detached(Exception):
    """The service lets go of a trainer, which lives on; the next service takes it up again."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training, ready to run: everything is checked and the device is chosen.

    Attributes:
        output_dir: where the trainer saves what it makes.
        run_dir: the service's own folder for this attempt.
        position: bytes of the trainer's output whose lines are stored already, by an earlier service process.
        is_resumed: an earlier service process has begun it.
        attempt: which run of the task it is; from the second on it continues at the checkpoint of the one before.
    """

    task_id: str
    request: TrainingRequest | CommandRequest | ImportRequest
    output_dir: Path
    device: str
    run_dir: Path
    position: int = 0
    is_resumed: bool = False
    attempt: int = 1


class Executor(ABC):
    """Runs trainings; one call of `run` per training, each on a thread of its own.

    Attributes:
        place: where a trainer is, as seen from this process.
        survives_restart: a training outlives the service process. `run` with the `run_dir` of one that has begun
            goes on with it, at `Run.position`, and each record that it logs says in `position` where the next
            service would go on.
    """

    survives_restart: ClassVar[bool] = False
    place: ClassVar[Place] = "thread"

    @abstractmethod
    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        """Train to the end, with every line of the trainer going to `logger`.

        Raises:
            TrainingStopped: `should_stop` said so.
            TrainingFailed: the training cannot go on, for the reason it carries.
            Detached: `detach` was called.
        """

    def detach(self) -> None:
        """Let go of every trainer that survives a restart, for good: each `run` raises `Detached` soon."""
        return
