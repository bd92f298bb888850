"""Trainings as jobs of a Ray cluster, which places them, lets them wait for room, and notices when a node is gone.

What a job prints is a file on storage that all nodes see, beside the checkpoints; it is read here by byte offset, like
that of a process. How the job ended is read from its state. So neither a lost connection nor a restart of this service
costs or repeats a line. Ray is imported where the first job is submitted.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from models.schemas import CommandRequest, ImportRequest, TrainingRequest
from services.devices import CPU
from services.executors.base import Detached, Executor, Place, Run
from services.executors.outcome import conclude
from services.executors.output import CHUNK, POLL_S, LineLogger
from services.executors.patience import is_want, patiently
from services.executors.ray_job import Failed, Lost
from services.executors.supervised import Exit, not_writable
from services.executors.supervisor import read_json, write_json
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.roots import ANYWHERE, Roots

OUTPUT, SPEC, REQUEST = "output.log", "spec.json", "request.json"
"""Of a job: what it prints, what it is to do, and what was asked for."""
RECORD: Final = "ray.json"
"""Beside them, for every service that may follow: the job's `submission_id`. Written before it is submitted."""
SUBMITTED: Final = "submitted"
"""Beside it, empty: the cluster has taken the job."""
REPOSITORY = Path(__file__).parents[2]
ASK_EVERY_S = 1.0
"""Between two questions for the state of a job."""
RETRY_S = 5.0
"""Between two attempts to reach a cluster."""
READ_AFTER_STOP_S = 3.0
GIVE_UP_STOP_S = 60.0
"""How long a job of a cluster that cannot be reached is asked to stop."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Unreachable(Exception):
    """The cluster does not answer. That says nothing of its jobs."""


class Refused(Exception):
    """It answers, and does not do what it is asked to."""


class Cluster(Protocol):
    """What is asked of a cluster. Each method raises `Unreachable` and `Refused`."""

    def submit(self, submission_id: str, entrypoint: str, env: dict[str, str]) -> None: ...

    def state(self, submission_id: str) -> Exit | Failed | Lost | None:
        """How a job has ended; `None` while it has not. Raises: KeyError: there is no such job."""

    def stop(self, submission_id: str) -> None: ...


class RayExecutor(Executor):
    """Runs the built-in trainer and commands on a cluster.

    Args:
        cluster: connects to it, or raises `Unreachable` or `Refused`; `None` where none is configured.
        stop_grace_s: what a trainer gets between SIGTERM and SIGKILL.
        roots: where the built-in trainer may read and write.
    """

    survives_restart: ClassVar[bool] = True
    place: ClassVar[Place] = "cluster"

    def __init__(
        self, cluster: Callable[[], Cluster] | None, *, stop_grace_s: float = 10.0, roots: Roots = ANYWHERE
    ) -> None:
        self._cluster = cluster
        self._stop_grace_s = stop_grace_s
        self._roots = roots
        self._detached = threading.Event()

    def detach(self) -> None:
        self._detached.set()

    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        if self._detached.is_set():
            raise Detached
        if self._cluster is None:
            raise TrainingFailed(
                "start_failed", "This service has no Ray cluster: set RAY_ADDRESS, and resume the task."
            )
        folder = folder_of(run)
        submission_id = patiently(lambda: recorded(run), self._detached)
        if submission_id is None:
            if run.position > 0:
                raise TrainingFailed("run_folder_lost", f"{folder} has lost what says which job it is.")
            if should_stop():
                raise TrainingStopped
            submission_id = self._prepare(run)
        following = _Following(
            self._cluster, submission_id, folder, run, logger, should_stop, self._detached, self._stop_grace_s
        )
        try:
            end = following.to_the_end()
        except Detached:
            raise
        except (TrainingStopped, TrainingFailed):
            forget_secrets(folder, logger)
            raise
        except BaseException as error:  # nobody would stop it any more
            following.end_for_good()
            forget_secrets(folder, logger)
            if isinstance(error, OSError):
                what = f"{error.filename or folder} cannot be used ({error.strerror})"
                message = f"{what}, without which the job cannot be followed: it was ended."
                raise TrainingFailed("run_folder_lost", message) from error
            raise
        forget_secrets(folder, logger)
        if isinstance(end, Lost):
            if should_stop():
                raise TrainingStopped
            raise TrainingFailed("interrupted", end.why)
        if isinstance(end, Failed):
            if not following.has_printed:
                last = next((line for line in reversed(end.said.splitlines()) if line.strip()), "it said nothing")
                raise TrainingFailed("start_failed", f"The driver of the job did not start: {last.strip()}")
            end = Exit(end.returncode)
        is_built_in = isinstance(run.request, TrainingRequest)
        conclude(end, output=folder / OUTPUT, was_stopped=should_stop(), is_built_in=is_built_in)

    def _prepare(self, run: Run) -> str:
        """Write down what the job is to do, where all nodes see it; returns what it is called there."""
        folder = folder_of(run)
        submission_id = f"{run.task_id}-{run.attempt}-{uuid.uuid4().hex[:12]}"
        try:
            (folder / SUBMITTED).unlink(missing_ok=True)  # of an earlier run of a command
            folder.mkdir(parents=True, exist_ok=True)
            (folder / OUTPUT).write_bytes(b"")
            if isinstance(run.request, TrainingRequest):
                write_json(folder / REQUEST, run.request.model_dump(mode="json"))
            content = specification(run, folder, self._roots, self._stop_grace_s)
            write_json(folder / SPEC, content, private=True)  # an environment may hold secrets
            write_json(folder / RECORD, {"submission_id": submission_id})
        except OSError as error:
            raise not_writable(error) from error
        return submission_id


def recorded(run: Run) -> str | None:
    """What the job of this run is called, if it has been made; not that of an earlier run in the same folder."""
    record = read_json(folder_of(run) / RECORD) or {}
    submission_id = str(record.get("submission_id", ""))
    return submission_id if submission_id.startswith(f"{run.task_id}-{run.attempt}-") else None


def forget_secrets(folder: Path, logger: logging.Logger) -> None:
    """How the job ended is no other for a folder that refuses it; but then somebody has to know."""
    for name in (SPEC, REQUEST):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            logger.warning(f"{folder / name} may hold secrets and could not be removed ({error.strerror}).")


def folder_of(run: Run) -> Path:
    """Where the files of a job are: in the training's folder, or in that where the command runs."""
    if isinstance(run.request, CommandRequest):
        return Path(run.request.working_dir).absolute() / ".ray" / run.task_id
    return run.output_dir / ".ray" / f"attempt-{run.attempt}"


def specification(run: Run, folder: Path, roots: Roots, grace_s: float) -> dict[str, Any]:
    """What `trainer.on_ray` reads."""
    request = run.request
    assert not isinstance(request, ImportRequest), "files are read by FileExecutor"
    what: dict[str, Any]
    if isinstance(request, CommandRequest):
        what = {"command": request.command, "cwd": request.working_dir, "env": request.env}
    else:
        arguments = [str(folder / REQUEST), "--plain", "--output-dir", str(run.output_dir), "--device", request.device]
        arguments += ["--resume"] if run.attempt > 1 else []
        arguments += [f"--data-root={root}" for root in roots.data]
        arguments += [f"--save-root={root}" for root in roots.save]
        what = {"command": None, "arguments": arguments, "cwd": str(folder), "env": {}}
    return {
        **what,
        "env": {"TRAINING_TASK_ID": run.task_id} | what["env"],
        "output": str(folder / OUTPUT),
        "workers": request.num_workers or 1,
        "cpus": 1 if request.cpus_per_worker is None else request.cpus_per_worker,
        "gpus": int(request.device != CPU) if request.gpus_per_worker is None else request.gpus_per_worker,
        "grace_s": grace_s,
    }


class _EnoughRead(Exception):
    """The job was stopped, and its output has been read for long enough."""


class _Following:
    """Submits a job if that has not been done, reads its output until it has ended, and passes a stop on to it."""

    def __init__(
        self,
        connect: Callable[[], Cluster],
        submission_id: str,
        folder: Path,
        run: Run,
        logger: logging.Logger,
        should_stop: Callable[[], bool],
        detached: threading.Event,
        grace_s: float,
    ) -> None:
        self._connect = connect
        self._cluster: Cluster | None = None
        self._id = submission_id
        self._folder = folder
        self._run_dir = run.run_dir
        self._logger = logger
        self._should_stop = should_stop
        self._detached = detached
        self._grace_s = grace_s
        self._output = folder / OUTPUT
        self._position = run.position
        is_built_in = isinstance(run.request, TrainingRequest)
        self._lines = LineLogger(logger, run.position, check=self._check, clock=time.monotonic, prefixed=is_built_in)
        self._next_question = 0.0
        self._is_away = self._was_submitted = False
        self._stop_since = self._read_until = float("inf")
        self._end: Exit | Failed | Lost | None = None

    def to_the_end(self) -> Exit | Failed | Lost:
        """Raises: Detached, TrainingStopped, TrainingFailed."""
        pause = POLL_S[0]
        file = self._open()
        try:
            while self._end is None:
                self._check()
                self._ask()
                pause = POLL_S[0] if self._read(file) else min(1.5 * pause, POLL_S[1])
                self._detached.wait(pause)
            file.close()
            file = self._open()  # NFS shows what another machine has written to whoever opens a file now
            while self._read(file):
                self._check()
            self._lines.finish()
        except _EnoughRead:
            left = os.fstat(file.fileno()).st_size - self._lines.position
            self._logger.warning(f"Stopped: the last {left} bytes of output are not shown. See {self._output}")
            raise TrainingStopped from None
        finally:
            file.close()
        return self._end

    @property
    def has_printed(self) -> bool:
        return self._position > 0

    def _open(self) -> FileIO:
        file = patiently(lambda: self._output.open("rb", buffering=0), self._detached)
        file.seek(self._position)
        return file

    def _read(self, file: FileIO) -> bool:
        chunk = patiently(lambda: file.read(CHUNK), self._detached)
        self._position += len(chunk)
        self._lines.feed(chunk)
        return bool(chunk)

    def _ask(self) -> None:
        """Submit the job, pass a stop on, or learn how it ended: whatever is due, if anything."""
        if time.monotonic() < self._next_question:
            return
        try:
            self._cluster = self._cluster or self._connect()
            self._advance(self._cluster)
        except (Refused, Unreachable) as error:
            if isinstance(error, Refused) and not self._is_submitted():
                raise TrainingFailed("start_failed", f"Ray refuses to run the job: {error}") from error
            self._next_question = time.monotonic() + RETRY_S
            if not self._is_away:
                self._logger.warning(f"The Ray cluster cannot be asked ({error}): waiting for it.")
            self._is_away = True
            if time.monotonic() - self._stop_since > GIVE_UP_STOP_S:
                self._logger.warning(f"Ray could not be told to stop job {self._id}: it may still run there.")
                raise TrainingStopped from None
        else:
            self._next_question = time.monotonic() + ASK_EVERY_S
            if self._is_away:
                self._logger.info("The Ray cluster answers again.")
            self._is_away = False

    def _advance(self, cluster: Cluster) -> None:
        is_submitted = self._is_submitted()
        try:
            self._end = cluster.state(self._id)
        except KeyError:
            if self._should_stop():
                raise TrainingStopped from None
            if is_submitted:
                self._end = Lost(f"The cluster does not know job {self._id} any more: it has been started anew.")
                return
            self._submit(cluster)
        self._was_submitted = True
        self._note()
        if self._should_stop() and self._end is None:
            with suppress(KeyError):  # it has ended and been forgotten: the next question tells
                cluster.stop(self._id)

    def _is_submitted(self) -> bool:
        return self._was_submitted or (self._folder / SUBMITTED).exists()

    def _note(self) -> None:
        """For the next service; once more where somebody has removed it. A folder without room takes it later.

        Raises: OSError: there is no folder any more.
        """
        try:
            if not (self._folder / SUBMITTED).exists():
                (self._folder / SUBMITTED).touch()
        except OSError as error:
            if not is_want(error) and error.errno not in _FULL:
                raise

    def _submit(self, cluster: Cluster) -> None:
        entrypoint = shlex.join(["python", "-m", "trainer.on_ray", str(self._folder / SPEC)])
        env = {"RAY_JOB_STOP_WAIT_TIME_S": str(int(self._grace_s) + 5), "PYTHONUNBUFFERED": "1"}
        cluster.submit(self._id, entrypoint, env)
        self._logger.info(f"Submitted to Ray as job {self._id}")

    def end_for_good(self) -> None:
        """Stop a job that nobody follows any more, and wait until it has ended: the next attempt begins beside it.

        Raises: Detached: the next service sees to it.
        """
        deadline = time.monotonic() + GIVE_UP_STOP_S + self._grace_s
        while not self._is_ended():
            if time.monotonic() > deadline:
                self._logger.warning(f"Job {self._id} of Ray was not seen to end: it may still run there.")
                return
            if self._detached.wait(ASK_EVERY_S):
                raise Detached

    def _is_ended(self) -> bool:
        """Whether it has; if not, it is told to, once more."""
        try:
            self._cluster = self._cluster or self._connect()
            if self._cluster.state(self._id) is not None:
                return True
            self._cluster.stop(self._id)
        except KeyError:
            return True
        except (Unreachable, Refused):
            return False
        return False

    def _check(self) -> None:
        if self._detached.is_set():
            raise Detached
        if not self._should_stop():
            return
        now = time.monotonic()
        if self._stop_since == float("inf"):
            self._stop_since, self._next_question = now, 0.0
        if self._end is not None and self._read_until == float("inf"):
            self._read_until = now + READ_AFTER_STOP_S
        if now > self._read_until:
            raise _EnoughRead
