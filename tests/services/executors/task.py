"""One task as the service runs it: an executor on a thread, a logger that keeps the lines, a stop button."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from models.schemas import CommandRequest
from services.executors.base import Executor, Run

TASK_ID = "task-of-a-test"
PATIENCE_S = 60
"""For what happens at once, unless it never does."""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def command_run(folder: Path, command: list[str], *, device: str = "cpu", **fields: Any) -> Run:
    body = {"command": command, "working_dir": str(folder), "device": device, **fields}
    request = CommandRequest.model_validate(body)
    return Run(TASK_ID, request, folder, device, folder / "state" / TASK_ID)


def supervisor_of(run: Run) -> psutil.Process | None:
    """The supervisor of a task, if it still runs."""
    try:
        record = json.loads((run.run_dir / "supervisor.json").read_bytes())
        return psutil.Process(record["supervisor"][0])
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def wait_until_dead(process: psutil.Process) -> None:
    """Also of a process that is somebody else's to reap, unlike `Process.wait`."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], PATIENCE_S)[0], process
    finally:
        os.close(descriptor)


def left_of(run: Run) -> list[psutil.Process]:
    """Every living process of an ended task, by its mark in the environment; the supervisor may just be ending."""
    supervisor = supervisor_of(run)
    if supervisor is not None:
        wait_until_dead(supervisor)
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("TRAINING_RUN_DIR") == str(run.run_dir) and process.status() != psutil.STATUS_ZOMBIE:
                assert environment["TRAINING_TASK_ID"] == run.task_id
                found.append(process)
        except psutil.Error:
            continue
    return found


class Task(logging.Handler):
    """Starts at once.

    Attributes:
        records: what was logged.
        raised: how it ended, where it did not complete.
    """

    def __init__(self, executor: Executor, run: Run) -> None:
        super().__init__()
        self.executor = executor
        self.current = run
        self.records: list[logging.LogRecord] = []
        self.raised: BaseException | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        logger = logging.Logger("task", logging.DEBUG)
        logger.addHandler(self)
        try:
            self.executor.run(self.current, logger, self._stop.is_set)
        except BaseException as raised:  # noqa: BLE001
            self.raised = raised

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.records.append(record)
            self._changed.notify_all()

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def position(self) -> int:
        return int(self.records[-1].__dict__["position"]) if self.records else self.current.position

    def wait_for(self, is_there: Callable[[list[str]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: is_there(self.messages), PATIENCE_S), self.messages

    def wait_for_line(self, line: str) -> None:
        self.wait_for(lambda messages: line in messages)

    def end(self) -> BaseException | None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.raised

    def ask_to_stop(self) -> None:
        self._stop.set()

    def stop(self) -> BaseException | None:
        self.ask_to_stop()
        return self.end()

    def detach(self) -> BaseException | None:
        self.executor.detach()
        return self.end()

    def resumed(self) -> Run:
        """What the next service is given."""
        return replace(self.current, position=self.position, is_resumed=True)
