"""The trainer, or any command, as a process of its own that outlives the service.

A supervisor beside it keeps what it prints in a file and notes how it ended (`supervisor`). This executor
reads that file into the task's log from wherever the last service process had come to. So it makes no
difference whether the service was there when a line was printed, or when the trainer ended.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from io import FileIO
from pathlib import Path
from typing import ClassVar

from models.schemas import CommandRequest, TrainingRequest
from services.executors.base import WITHHELD, Detached, Executor, Place, Run
from services.executors.outcome import conclude
from services.executors.output import CHUNK, POLL_S, LineLogger
from services.executors.patience import patiently
from services.executors.supervised import OUTPUT, Exit, SupervisedTrainer, end_what_runs, not_writable
from services.executors.supervisor import RECORD
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.roots import ANYWHERE, Roots

REPOSITORY = Path(__file__).parents[2]
READ_AFTER_STOP_S = 3.0
"""How long a stopped trainer's remaining output is read: it may be so much that the stop would take hours."""


class ProcessExecutor(Executor):
    """Runs the built-in trainer and commands.

    Args:
        stop_grace_s: what a trainer gets between SIGTERM and SIGKILL.
        withheld: variables of the service's environment that are no trainer's business.
        roots: where the built-in trainer may read and write.
    """

    survives_restart: ClassVar[bool] = True
    place: ClassVar[Place] = "process"

    def __init__(
        self,
        *,
        stop_grace_s: float = 10.0,
        withheld: Collection[str] = WITHHELD,
        roots: Roots = ANYWHERE,
    ) -> None:
        self._roots = roots
        self._stop_grace_s = stop_grace_s
        self._withheld = frozenset(withheld)
        self._detached = threading.Event()

    def detach(self) -> None:
        self._detached.set()

    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        if self._detached.is_set():
            raise Detached
        is_built_in = isinstance(run.request, TrainingRequest)
        try:
            trainer = self._find(run)
            if trainer is None:
                has_begun = run.is_resumed and (end_what_runs(run.run_dir) or run.position > 0)
                if should_stop():
                    raise TrainingStopped
                if has_begun:  # and is not begun again
                    raise TrainingFailed("run_folder_lost", f"{run.run_dir} has lost what the trainer wrote there.")
                self._start(run)
                trainer = self._find(run)
                if trainer is None:  # it has removed its folder already
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(run.run_dir / RECORD))
            reading = _Reading(trainer, run, logger, should_stop, self._detached, prefixed=is_built_in)
            end = reading.to_the_end()
        except (Detached, TrainingStopped, TrainingFailed):
            raise
        except BaseException as error:  # nobody would stop it any more
            end_what_runs(run.run_dir)
            if isinstance(error, FileNotFoundError):
                message = f"{error.filename} is gone, without which the trainer cannot be followed: it was ended."
                raise TrainingFailed("run_folder_lost", message) from error
            raise
        conclude(end, output=run.run_dir / OUTPUT, was_stopped=should_stop(), is_built_in=is_built_in)

    def _find(self, run: Run) -> SupervisedTrainer | None:
        return patiently(lambda: SupervisedTrainer.find(run.run_dir), self._detached)

    def _start(self, run: Run) -> None:
        env = {name: value for name, value in os.environ.items() if name not in self._withheld}
        env |= {"PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # NVML's order, as the device was chosen
        if isinstance(run.request, TrainingRequest):
            spec = run.run_dir / "request.json"
            try:
                run.run_dir.mkdir(parents=True, exist_ok=True)
                spec.write_text(run.request.model_dump_json(), encoding="utf-8")
            except OSError as error:
                raise not_writable(error) from error
            command = [sys.executable, "-P", "-m", "trainer", str(spec), "--plain"]
            command += ["--output-dir", str(run.output_dir), "--device", run.device]
            command += ["--resume"] if run.attempt > 1 else []
            command += [f"--data-root={folder}" for folder in self._roots.data]
            command += [f"--save-root={folder}" for folder in self._roots.save]
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), env.get("PYTHONPATH")]))
            cwd = str(Path.cwd())  # what relative paths of the request are relative to
        else:
            assert isinstance(run.request, CommandRequest), "files are read by FileExecutor"
            command, cwd = run.request.command, run.request.working_dir
            env |= {"CUDA_VISIBLE_DEVICES": _visible_devices(run.device, env)} | run.request.env
        SupervisedTrainer.start(run.run_dir, run.task_id, command, cwd=cwd, env=env, grace_s=self._stop_grace_s)


def _visible_devices(device: str, env: Mapping[str, str]) -> str:
    """`CUDA_VISIBLE_DEVICES` for a command that may use `device`, which counts the GPUs that the service sees."""
    if device == "cpu":
        return ""
    index = int(device.removeprefix("cuda:"))
    visible = env.get("CUDA_VISIBLE_DEVICES")
    return str(index) if visible is None else [part.strip() for part in visible.split(",") if part.strip()][index]


class _EnoughRead(Exception):
    """The trainer was stopped, and its output has been read for long enough."""


class _Reading:
    """Reads a trainer's output until it has ended, and passes a stop on to it."""

    def __init__(
        self,
        trainer: SupervisedTrainer,
        run: Run,
        logger: logging.Logger,
        should_stop: Callable[[], bool],
        detached: threading.Event,
        *,
        prefixed: bool,
    ) -> None:
        self._trainer = trainer
        self._logger = logger
        self._should_stop = should_stop
        self._detached = detached
        self._output = run.run_dir / OUTPUT
        self._lines = LineLogger(logger, run.position, check=self._check, clock=time.monotonic, prefixed=prefixed)
        self._position = run.position
        self._stop_passed_on = self._waits_for_disk = False
        self._end: Exit | None = None
        self._read_until = float("inf")

    def to_the_end(self) -> Exit:
        """Raises: Detached, TrainingStopped, TrainingFailed: the supervisor was killed."""
        with patiently(lambda: self._output.open("rb", buffering=0), self._detached) as file:
            file.seek(self._position)
            try:
                self._read(file)
            except _EnoughRead:
                left = os.fstat(file.fileno()).st_size - self._lines.position
                self._logger.warning(f"Stopped: the last {left} bytes of output are not shown. See {self._output}")
                self._tell_of_kill()
                raise TrainingStopped from None
        assert self._end is not None
        self._tell_of_kill()
        return self._end

    def _tell_of_kill(self) -> None:
        if self._end is not None and self._end.killed_after_s is not None:
            grace_s = self._end.killed_after_s
            self._logger.warning(f"The trainer did not end within {grace_s:g} s of SIGTERM and was killed.")

    def _read(self, file: FileIO) -> None:
        pause, is_over = POLL_S[0], False
        while True:
            self._check()
            # asked before reading: the last bytes may come in between
            is_over = is_over or patiently(self._is_over, self._detached)
            chunk = patiently(lambda: file.read(CHUNK), self._detached)
            self._position += len(chunk)
            self._lines.feed(chunk)
            self._trainer.tell_position(self._position)
            if self._waits_for_disk or not chunk:
                self._tell_of_disk(file.fileno())
            if chunk:
                pause = POLL_S[0]
            elif is_over:
                break
            else:
                self._detached.wait(pause)
                pause = min(1.5 * pause, POLL_S[1])
        self._lines.finish()
        if self._end is None:
            if self._stop_passed_on:
                raise TrainingStopped
            if not self._trainer.is_of_this_boot:
                raise TrainingFailed("interrupted", "The machine was restarted during this training.")
            raise TrainingFailed(
                "supervisor_lost",
                "The process that supervised the trainer was killed, or its folder was removed: the trainer ended "
                "with it.",
            )

    def _tell_of_disk(self, output: int) -> None:
        """Once when the trainer begins to wait, and once when it goes on."""
        if self._trainer.waits_for_disk(output) == self._waits_for_disk:
            return
        self._waits_for_disk = not self._waits_for_disk
        if self._waits_for_disk:
            self._logger.warning(f"{self._output} cannot be written: the trainer waits until its disk has room again.")
        else:
            self._logger.info("There is room on the disk again: the trainer goes on.")

    def _is_over(self) -> bool:
        is_supervised = self._trainer.is_supervised()
        self._end = self._trainer.exit()  # asked second: it is the last thing that a supervisor writes
        return self._end is not None or (not is_supervised and not self._trainer.end_leftovers())

    def _check(self) -> None:
        if self._detached.is_set():
            raise Detached
        if self._should_stop():
            if not self._stop_passed_on:
                patiently(self._trainer.stop, self._detached)
                self._stop_passed_on = True
            if self._end is None:
                self._end = patiently(self._trainer.exit, self._detached)
            if self._end is not None and self._read_until == float("inf"):
                self._read_until = time.monotonic() + READ_AFTER_STOP_S
            if time.monotonic() > self._read_until:
                raise _EnoughRead
