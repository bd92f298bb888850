"""A trainer that another process supervises, seen from the service: by files, whoever started it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from services.executors import supervisor
from services.executors.base import TRAINING_NICENESS
from services.executors.memory import kill_counter
from services.executors.patience import is_want
from services.executors.supervisor import Ending, Process, below, boot_id, is_alive, read_json, read_status, running
from trainer.errors import TrainingFailed

OUTPUT = supervisor.OUTPUT
MAX_AHEAD = 256 * 2**20
"""Bytes of output that may wait for the service; with more the trainer waits, as with any full pipe."""
_RUN_DIR_MARK = "TRAINING_RUN_DIR"
"""Beside the task's id in the trainer's environment: a second service on the machine may use the same ids."""
_SCAN_S = 0.05
"""Between two looks at what is still running."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a trainer ended.

    Attributes:
        returncode: exit status, or minus the number of the signal that killed it.
        stopped: it was asked to.
        start_error: why it did not even start.
        killed_after_s: how long it was given to end when it was stopped, where it then had to be killed.
        lacked_memory: the kernel killed something for want of memory when it ended, in the trainer's control group.
    """

    returncode: int = 0
    stopped: bool = False
    start_error: str | None = None
    killed_after_s: float | None = None
    lacked_memory: bool = False


def not_writable(error: OSError) -> TrainingFailed:
    """What becomes of a task whose own folder refuses what has to be there before its trainer starts."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    message = f"The trainer was not started: {error.filename or 'its folder'} could not be written ({error.strerror})."
    if is_full:
        message += " Free some space where STATE_DIR is, then start it again."
    return TrainingFailed("disk_full" if is_full else "start_failed", message)


class SupervisedTrainer:
    """The trainer of one `run_dir`.

    Attributes:
        is_of_this_boot: the machine has not been restarted since.
    """

    def __init__(self, run_dir: Path, record: Mapping[str, Any]) -> None:
        self._run_dir = run_dir
        self.is_of_this_boot = record["boot"] == boot_id()
        self._supervisor = Process(*record["supervisor"])
        self._told = 0
        self._ending: Ending | None = None

    @classmethod
    def find(cls, run_dir: Path) -> Self | None:
        """The trainer that has begun in `run_dir`, running or not; `None` where there was none."""
        record = read_json(run_dir / supervisor.RECORD)
        return None if record is None else cls(run_dir, record)

    @staticmethod
    def start(
        run_dir: Path, task_id: str, command: Sequence[str], *, cwd: str, env: Mapping[str, str], grace_s: float
    ) -> None:
        """Start a supervisor, and with it the trainer, for `find`. Leaves the calling process with no child.

        Raises:
            TrainingFailed: the supervisor does not start. Whether the trainer does is for `exit` to say.
        """
        run_dir = run_dir.resolve()
        counter = kill_counter(Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace"))
        marks = {"TRAINING_TASK_ID": task_id, _RUN_DIR_MARK: str(run_dir)}
        spec = {
            "command": list(command),
            "cwd": str(Path(cwd).absolute()),
            "env": {**env, **marks},
            "stop_grace_s": grace_s,
            "niceness": TRAINING_NICENESS,
            "max_ahead": MAX_AHEAD,
            "memory_kills": counter and str(counter),
        }
        log = run_dir / "supervisor.log"
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as errors:
                subprocess.run(  # noqa: S603 - a script of ours
                    [sys.executable, "-I", "-S", supervisor.__file__, str(run_dir)],
                    input=json.dumps(spec).encode("ascii"),
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**os.environ, **marks},
                    start_new_session=True,
                    check=True,
                )
        except OSError as error:
            raise not_writable(error) from error
        except subprocess.CalledProcessError as error:
            number, _, path = error.stdout.decode().strip().partition(" ")
            if path:
                raise not_writable(OSError(int(number), os.strerror(int(number)), path)) from error
            message = f"The process that supervises the trainer did not start ({error}). {log} may say why."
            raise TrainingFailed("start_failed", message) from error

    def exit(self) -> Exit | None:
        """How the trainer ended, once everything that it printed is in the file."""
        content = read_json(self._run_dir / supervisor.EXIT)
        return None if content is None else Exit(**content)

    def is_supervised(self) -> bool:
        """Whether there will be an `exit`, if there is none yet."""
        return self.is_of_this_boot and is_alive(self._supervisor)

    def waits_for_disk(self, output: int) -> bool:
        """Whether what it has printed, or how it ended, waits for room. Args: output: descriptor of its file."""
        try:
            fcntl.flock(output, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(output, fcntl.LOCK_UN)
        return False

    def processes(self) -> list[Process]:
        """The trainer, and all that it has started, as far as they are still there."""
        return below({self._supervisor.pid}, running()) if self.is_supervised() else []

    def stop(self) -> None:
        """Ask it to end, and make it end when it does not. Returns at once."""
        if self.is_supervised():
            with suppress(ProcessLookupError):
                os.kill(self._supervisor.pid, signal.SIGTERM)

    def tell_position(self, position: int) -> None:
        """Let the trainer print on, where it has to wait for whoever reads."""
        if position - self._told < MAX_AHEAD // 16:
            return
        path = self._run_dir / supervisor.READ
        partial = path.with_suffix(".part")
        with suppress(OSError):  # the disk is full: later
            partial.write_text(str(position), encoding="ascii")
            partial.replace(path)
            self._told = position

    def end_leftovers(self) -> bool:
        """End what a supervisor that was killed has left behind, by one step; whether it takes another."""
        self._ending = self._ending or Ending(supervisor.KILL_AFTER_S)
        return self.is_of_this_boot and self._ending.step(_leftovers(self._run_dir, self._session()))

    def _session(self) -> int | None:
        """The session of the trainer, unless its number has gone to another process since."""
        record = read_json(self._run_dir / supervisor.RECORD) or {}
        if "trainer" not in record:
            return None
        trainer = Process(*record["trainer"])
        leader = read_status(trainer.pid)
        return trainer.pid if leader is None or leader.process == trainer else None


def end_what_runs(run_dir: Path) -> bool:
    """End the supervisor of a `run_dir` that is lost, and all that it runs; whether there was anything."""
    ending, found, any_left = Ending(supervisor.KILL_AFTER_S), False, True
    while any_left:
        try:
            any_left = ending.step(_leftovers(run_dir, session=None))
            found = found or any_left
        except OSError as error:  # nobody else would end it: until it is known what runs
            if not is_want(error):
                raise
        if any_left:
            time.sleep(_SCAN_S)
    return found


def _leftovers(run_dir: Path, session: int | None) -> list[Process]:
    """Known by their environment, by the session of the trainer, and as descendants of these."""
    mark = f"{_RUN_DIR_MARK}={run_dir.resolve()}".encode()
    statuses = running()
    ours = {
        status.process for status in statuses if status.session == session or mark in _environment(status.process.pid)
    }
    ours |= set(below({process.pid for process in ours}, statuses))
    return [process for process in ours if process.pid != os.getpid()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
