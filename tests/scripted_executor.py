"""A trainer that prints what a test tells it to, so that tests of the service need no torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from models.schemas import TrainingRequest
from services.executors.base import Executor, Run
from trainer.errors import TrainingStopped

Script = Callable[[Run, logging.Logger, Callable[[], bool]], None]

EPOCH_LINES = (
    "Epoch [{epoch}/{total}] started",
    "Train Loss: 0.5234, Train Accuracy: 82.45%",
    "Validation Loss: 0.6123, Validation Accuracy: 78.92%",
    "Validation macro_F1: 0.7654",
    "Learning Rate: 0.0001",
)


def native_epochs(run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
    """A whole training in the native formats, as fast as it can be printed."""
    total = run.request.num_epochs if isinstance(run.request, TrainingRequest) else 2
    for epoch in range(1, total + 1):
        if should_stop():
            raise TrainingStopped
        for line in EPOCH_LINES:
            logger.info(line.format(epoch=epoch, total=total))
    logger.info("Training complete.")


class ScriptedExecutor(Executor):
    """Runs `script` for every training.

    `hold()` makes a script that waits until `release()`, or until it is told to stop.
    """

    def __init__(self) -> None:
        self.script: Script = native_epochs
        self.started: list[Run] = []
        self._released = threading.Event()

    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        script = self.script
        self.started.append(run)
        script(run, logger, should_stop)

    def hold(self) -> None:
        """From now on trainings print `Holding` and wait."""

        def wait(_run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
            logger.info("Holding")
            while not self._released.wait(0.005):
                if should_stop():
                    raise TrainingStopped

        self.script = wait

    def release(self) -> None:
        """Let every training that is held complete."""
        self._released.set()
