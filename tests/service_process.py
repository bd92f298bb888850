"""The service as a process of its own, and, run as a program, with a trainer that needs no torch.

    python -m tests.service_process

is `python app_refactored.py`, except that a training prints a numbered line every few milliseconds until
it is told to stop.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from app_refactored import main
from services.executors.base import Executor, Run
from trainer.errors import TrainingStopped

REPOSITORY = Path(__file__).parents[1]
APP = str(REPOSITORY / "app_refactored.py")
LINE_EVERY_S = 0.02


class CountingExecutor(Executor):
    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        number = 0
        while not should_stop():
            number += 1
            logger.info("line %d", number)
            time.sleep(LINE_EVERY_S)
        raise TrainingStopped


class ServiceProcess:
    """Runs `python *arguments` in `folder` on a free port; answers on `url` once `start` has returned."""

    def __init__(self, *arguments: str, folder: Path, **environment: str) -> None:
        unset = {"PYTHONPATH": str(REPOSITORY), "PORT": "0", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | unset | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.output: list[str] = []
        self._new: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> Self:
        """Wait until it listens."""
        while (line := self._new.get(timeout=60)) is not None:
            if running := re.search(r"running on (http://\S+)", line):
                self.url = running[1]
                return self
        raise AssertionError(f"the service did not start: {''.join(self.output)}")

    def end(self, number: signal.Signals | None = None, *, within_s: float = 60) -> int:
        """Send a signal, if one is given, and wait: the exit status."""
        if number is not None:
            self._process.send_signal(number)
        status = self._process.wait(within_s)
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.output.append(line)
                self._new.put(line)
        self._new.put(None)


if __name__ == "__main__":
    sys.exit(main(CountingExecutor()))
