"""The service, except that a training writes lines at a steady rate: they take the way of every trainer's lines.

FAN_OUT_BEGINS=FILE python -m benchmarks.fanning.service
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from app_refactored import main
from benchmarks.fanning.ticks import ticks
from services.executors.base import Executor, Run
from trainer.errors import TrainingStopped


class TickingExecutor(Executor):
    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:  # noqa: ARG002
        for line in ticks(should_stop):
            logger.info(line)
        raise TrainingStopped


if __name__ == "__main__":
    sys.exit(main(TickingExecutor()))
