"""The trainer in the calling thread of the service itself: no start-up cost, the default on a CPU."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from models.schemas import TrainingRequest
from services.executors.base import TRAINING_NICENESS, Executor, Run
from trainer.roots import ANYWHERE, Roots


class ThreadExecutor(Executor):
    """Imports torch at the first run, not at the start of the service.

    Args:
        roots: where trainings may read and write.
    """

    def __init__(self, roots: Roots = ANYWHERE) -> None:
        self._roots = roots

    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        assert isinstance(run.request, TrainingRequest), "only the built-in trainer runs in a thread"
        _lower_priority()
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # NVML's order, by which the device was chosen
        from trainer.loop import train

        train(
            run.request,
            output_dir=run.output_dir,
            device=run.device,
            logger=logger,
            should_stop=should_stop,
            resume=run.attempt > 1,
            roots=self._roots,
        )


def _lower_priority() -> None:
    """Make this thread nicer than those that answer requests; torch's worker threads inherit it from here.

    Linux alone gives every thread a niceness of its own (setpriority(2), "C library/kernel differences").
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = max(os.getpriority(os.PRIO_PROCESS, thread), TRAINING_NICENESS)
        with suppress(OSError):  # a sandbox may forbid it; the training runs all the same
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
