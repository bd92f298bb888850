"""A training that prints what a test says, when the test says it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue

from services.executors.base import Run
from trainer.errors import TrainingStopped


class Dictation:
    """A script for `ScriptedExecutor`. Of several trainings that run it, each line goes to one, and `end` to all.

    Args:
        heeds_stop: end when told to stop, as a trainer does after its batch; else only at `end`.
    """

    def __init__(self, *, heeds_stop: bool = True) -> None:
        self._heeds_stop = heeds_stop
        self._lines: SimpleQueue[str | Exception | None] = SimpleQueue()

    def say(self, *lines: str) -> None:
        for line in lines:
            self._lines.put(line)

    def end(self, error: Exception | None = None) -> None:
        """Return from the training, or raise `error` in it, once everything said is printed."""
        self._lines.put(error)

    def __call__(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        while True:
            try:
                line = self._lines.get(timeout=0.01)
            except Empty:
                if self._heeds_stop and should_stop():
                    raise TrainingStopped from None
                continue
            if line is None:
                self._lines.put(None)
                return
            if isinstance(line, Exception):
                raise line
            logger.info(line)
