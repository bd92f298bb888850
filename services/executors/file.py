"""The log file of a training that ran, or runs, somewhere else, read as if it were a trainer's output."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from io import FileIO
from typing import ClassVar

from models.schemas import ImportRequest
from services.errors import PathForbidden
from services.executors.base import Detached, Executor, Run
from services.executors.output import CHUNK, POLL_S, LineLogger
from services.paths import PathPolicy, is_on_disk
from trainer.errors import TrainingFailed, TrainingStopped


class FileExecutor(Executor):
    """Reads a file to its present end or, as `tail -F` does, goes on with what is being added.

    After a restart a file that is shorter than before is taken for a new one; one that was replaced meanwhile
    and is longer already is not noticed.
    """

    survives_restart: ClassVar[bool] = True

    def __init__(self, paths: PathPolicy | None = None) -> None:
        self._paths = paths or PathPolicy()
        self._detached = threading.Event()

    def detach(self) -> None:
        self._detached.set()

    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        assert isinstance(run.request, ImportRequest), "trainers are run by other executors"
        reading = _Reading(run.request.path, run.position, logger, should_stop, self._detached, self._paths)
        try:
            if run.request.follow:
                reading.follow()
            else:
                reading.to_the_end()
        except OSError as error:
            message = f"{run.request.path!r} cannot be read: {error.strerror}."
            raise TrainingFailed("file_unreadable", message) from error


class _Reading:
    """Of one path, whichever files it has led to. Every method raises `OSError`, `TrainingStopped`, `Detached`."""

    def __init__(
        self,
        path: str,
        position: int,
        logger: logging.Logger,
        should_stop: Callable[[], bool],
        detached: threading.Event,
        paths: PathPolicy,
    ) -> None:
        self._path = path
        self._paths = paths
        self._logger = logger
        self._should_stop = should_stop
        self._detached = detached
        self._is_missing = False
        self._start_at(position)

    def to_the_end(self) -> None:
        with closing(self._open()) as file:
            self._resume(file)
            end = os.fstat(file.fileno()).st_size
            while self._position < end and self._take(file.read(min(CHUNK, end - self._position))):
                self._check()
        self._lines.finish()

    def follow(self) -> None:
        """Does not return."""
        try:
            file = self._open()
        except FileNotFoundError:
            if not self._position:
                raise
            file = self._wait_for_file()  # it has been there
        try:
            self._resume(file)
            while True:
                self._read_what_is_there(file)
                successor = self._successor(file)
                if successor is not None:
                    self._read_what_is_there(file)  # it may have been written to until it was replaced
                    file.close()
                    file = successor
                    self._begin_again("was replaced")
        except (TrainingStopped, OSError):
            self._lines.finish()
            raise
        finally:
            file.close()

    def _read_what_is_there(self, file: FileIO) -> None:
        while self._take(file.read(CHUNK)):
            self._check()

    def _successor(self, file: FileIO) -> FileIO | None:
        """Wait until there is more to read in `file`, or another one has taken its place: that one."""
        pause = POLL_S[0]
        while True:
            self._pause(pause)
            pause = min(1.5 * pause, POLL_S[1])
            self._take(b"")
            mine = os.fstat(file.fileno())
            if mine.st_size < self._position:
                file.seek(0)
                self._begin_again("was shortened")
            if mine.st_size > self._position:
                return None
            present = self._stat()
            if present is not None and not os.path.samestat(present, mine):
                try:
                    return self._open()
                except FileNotFoundError:
                    continue

    def _wait_for_file(self) -> FileIO:
        while True:
            if self._stat() is not None:
                return self._open()
            self._pause(POLL_S[1])

    def _stat(self) -> os.stat_result | None:
        """Of the path; where there is nothing, that is said once."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - as os.fstat
        except FileNotFoundError:
            if not self._is_missing:
                self._logger.warning(f"{self._path} is gone: waiting for it to come back.")
            self._is_missing = True
            return None
        self._is_missing = False
        return found

    def _resume(self, file: FileIO) -> None:
        if os.fstat(file.fileno()).st_size < self._position:
            self._begin_again("was shortened")
        file.seek(self._position)

    def _begin_again(self, why: str) -> None:
        self._lines.finish()
        self._logger.warning(f"{self._path} {why}: reading it from its start.", extra={"position": 0})
        self._start_at(0)

    def _start_at(self, position: int) -> None:
        self._position = position
        self._lines = LineLogger(self._logger, position, check=self._check, clock=time.monotonic)

    def _take(self, chunk: bytes) -> bool:
        self._position += len(chunk)
        self._lines.feed(chunk)
        return bool(chunk)

    def _pause(self, seconds: float) -> None:
        self._detached.wait(seconds)
        self._check()

    def _check(self) -> None:
        if self._detached.is_set():
            raise Detached
        if self._should_stop():
            raise TrainingStopped

    def _open(self) -> FileIO:
        """Raises: OSError: also for what is no file, a pipe for example, whose opening would wait.

        The path may have become a link since it was accepted, so the roots are asked about what was opened.
        """
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not is_on_disk(os.fstat(descriptor)):
                raise OSError(None, "it is not a regular file")
            self._paths.check_data("path", os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - as os.fstat
        except PathForbidden:
            os.close(descriptor)
            raise OSError(None, "it leads out of the folders this service may use (DATA_ROOTS)") from None
        except BaseException:
            os.close(descriptor)
            raise
        return FileIO(descriptor)
