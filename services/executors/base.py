"""What `TrainingService` asks of a place where a trainer can run."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.schemas import TrainingRequest


@dataclass(frozen=True, slots=True)
class Run:
    """One training, ready to run: everything is checked and the device is chosen."""

    request: TrainingRequest
    output_dir: Path
    device: str


class Executor(ABC):
    """Runs trainings; one call of `run` per training, each on a thread of its own."""

    @abstractmethod
    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        """Train to the end, with every line of the trainer going to `logger`.

        Raises:
            TrainingStopped: `should_stop` said so.
            TrainingFailed: the training cannot go on, for the reason it carries.
        """
