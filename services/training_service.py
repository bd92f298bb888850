"""Trainings: accepted, queued, run on a background thread each, and read from their own log lines."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.schemas import AnyRequest, CommandRequest, ImportRequest, LogReading, Stage, TaskStatus, TrainingRequest
from services.base_service import WRITE_TIMEOUT_S, BaseService
from services.checks import RESERVED_TASK_IDS, check_allowed, find_problems, resolve_device
from services.devices import CPU, FILE, Gpu
from services.errors import InvalidRequest, ServiceError, StorageUnavailable, TaskConflict
from services.executors.base import Detached, Executor, Run
from services.executors.choice import Executors
from services.latest_metrics import LatestMetrics
from services.log_entry import LogEntry, StatusChange, clean_text
from services.log_handler import TrainingLogHandler
from services.parsing import LineParser, Memory, check_reading
from services.paths import PathPolicy, claim_output_dir
from services.reparse import Reparser
from services.requests import describe, from_stored, from_stored_unchecked, new_task, problems_in_words
from services.scheduler import Scheduler
from services.storage.database import Database
from services.task_state import IMPORT, TRANSITIONS, TaskState
from trainer.errors import TrainingFailed, TrainingStopped

__all__ = ["LAST_MESSAGE", "RESERVED_TASK_IDS", "LatestMetrics", "TrainingLogHandler", "TrainingService"]

logger = logging.getLogger(__name__)

INTERRUPTED = "The service ended during this training."
NO_GPU = "No CUDA GPU on this machine: training on the CPU."
LAST_MESSAGE = "任务结束"
"""Message of every task's last line; deployed clients print it."""

SHUTDOWN_GRACE_S = 2.5
"""How long running trainings get to reach the end of their batch when the service ends."""


@dataclass(slots=True)
class _Training:
    """What the service knows about a task beyond its committed state: how far it has been told to go."""

    request: AnyRequest
    output_dir: Path
    status: TaskStatus
    executor: Executor
    handler: TrainingLogHandler
    position: int = 0
    is_resumed: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class TrainingService(BaseService):
    """Owns the queue and the running trainings.

    Args:
        database: an open store; tasks in it that had not ended are taken up again by `resume_queue`.
        executors: run the trainers.
        scheduler: decides what runs next; used under this service's lock only.
        gpus: GPUs of this machine.
        paths: where requests may read and write.
        runs_dir: in it, each task that runs gets a folder of the service's own.
        allow_commands: run programs that requests name.
    """

    def __init__(
        self,
        database: Database,
        *,
        executors: Executors,
        scheduler: Scheduler,
        gpus: Callable[[], Sequence[Gpu]],
        paths: PathPolicy,
        runs_dir: Path,
        allow_commands: bool,
    ) -> None:
        super().__init__(database)
        self.latest_metrics = LatestMetrics(self)
        self._executors = executors
        self._scheduler = scheduler
        self._gpus = gpus
        self._paths = paths
        self._runs_dir = runs_dir.absolute()
        self._allow_commands = allow_commands
        self._reparser = Reparser(self.store, self._writer, self.get_task)
        self._trainings: dict[str, _Training] = {}
        self._closing = False

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def queued(self) -> int:
        return self._scheduler.queued

    def resume_queue(self) -> None:
        """Take up what an earlier service process left.

        Queued tasks wait again. What has outlived that process is read on; other running tasks have failed.
        """
        for state in self.store.active_tasks():
            self.adopt(state)
            with self._lock:
                self._take_up(state)
        with self._lock:
            self._dispatch()

    def _take_up(self, state: TaskState) -> None:
        """Queue again what waited, as far as it is still allowed and possible; read on, or end, what ran."""
        task_id, request = state.task_id, from_stored_unchecked(state)
        has_begun = state.status not in (TaskStatus.PENDING, TaskStatus.QUEUED)
        if has_begun and self._executor_of(state).survives_restart:
            self._read_on(state, request)
            return
        self._trainings[task_id] = training = self._training(state, request)
        if has_begun:
            self._interrupt(task_id)
            return
        try:
            training.request = request = from_stored(state)
            check_allowed(request, self._paths, allow_commands=self._allow_commands)
            if problems := check_reading(request):
                raise InvalidRequest.from_problems(problems)
        except ValidationError as error:  # an older release let it in
            self._end(task_id, TaskStatus.FAILED, "invalid_request", clean_text(problems_in_words(error)))
            return
        except ServiceError as error:  # other settings did
            self._end(task_id, TaskStatus.FAILED, error.code, clean_text(str(error)))
            return
        device, problem = resolve_device(request, self._gpus)
        if problem:
            self._end(task_id, TaskStatus.FAILED, problem[0].code, f"device: {problem[0].message}")
            return
        if device == CPU and state.device != CPU:
            self._note(LogEntry(task_id, "WARNING", NO_GPU))
        self._scheduler.add(task_id, priority=state.priority, device=device)

    def _read_on(self, state: TaskState, request: AnyRequest) -> None:
        """Take up a task that has gone on without the service. Call with the lock held."""
        position, memory = self.store.read_progress(state.task_id)
        self._trainings[state.task_id] = training = self._training(state, request, memory)
        training.position, training.is_resumed = position, True
        if state.status is TaskStatus.STOPPING:
            training.stop.set()
        self._scheduler.adopt(state.task_id, device=state.device)
        self._start(state.task_id, state.device)

    def _training(self, state: TaskState, request: AnyRequest, memory: Memory | None = None) -> _Training:
        readable = LogReading() if check_reading(request) else request  # an older release let another one in
        parser = LineParser(readable.metric_definitions, readable.log_format, memory)
        handler = TrainingLogHandler(state.task_id, self, parser, state.warnings)
        return _Training(request, Path(state.output_dir), state.status, self._executor_of(state), handler)

    def _executor_of(self, state: TaskState) -> Executor:
        """The one that was chosen when the task was accepted; releases that chose none had threads only."""
        return self._executors["file" if state.task_type == IMPORT else state.request.get("executor", "thread")]

    def start_training(self, request: AnyRequest) -> TaskState:
        """Check a request, give it a task, and run it as soon as its device is free.

        Raises:
            InvalidRequest: a field cannot be used; each is named with what to do.
            PathForbidden: a path is outside the configured roots.
            CommandsDisabled: it is a command, and this service runs none.
            TaskConflict: the `task_id` or the `name` is in use.
            StorageUnavailable: the store does not take writes, or the service is shutting down.
        """
        self._refuse_while_degraded()
        if self._closing:
            raise StorageUnavailable("The service is shutting down.", code="shutting_down")
        check_allowed(request, self._paths, allow_commands=self._allow_commands)
        device, device_problem = resolve_device(request, self._gpus)
        problems = [*device_problem, *find_problems(request)]
        if problems:
            raise InvalidRequest.from_problems(problems)
        task_id = request.task_id or str(uuid.uuid4())
        if task_id in self.tasks or self.store.get_task(task_id) is not None:
            raise TaskConflict(f"There is a task {task_id!r} already. Choose another task_id.", code="task_id_in_use")
        output_dir = self._runs_dir / task_id
        if isinstance(request, TrainingRequest):
            output_dir = claim_output_dir(request.save_path, request.name, task_id)
        entry = LogEntry(task_id, "INFO", f"Task accepted: {describe(request, device)}")
        unknown = tuple(
            f"Unknown field {clean_text(name)!r} was ignored." for name in sorted(request.model_extra or ())
        )
        state = new_task(
            request,
            task_id,
            output_dir=output_dir,
            device=device,
            moment=entry.timestamp,
            warnings=unknown,
            executor=self._executors.choose(request, device),
        )
        try:
            self.create_log_queue(task_id, state)
        except BaseException as error:
            if isinstance(request, TrainingRequest):
                output_dir.rmdir()
            if isinstance(error, TimeoutError):
                raise StorageUnavailable("The store did not take the task in time. Look at its disk.") from error
            raise
        shutil.rmtree(self._runs_dir / task_id, ignore_errors=True)  # of a task in another store
        warnings = list(unknown)
        if device == CPU and not isinstance(request, ImportRequest) and request.device != CPU:
            warnings.append(NO_GPU)
        # From here on the task is accepted: it is in the store, and will run. At worst its first lines
        # wait, or the service is closing and the next one takes it up.
        with suppress(TimeoutError, StorageUnavailable):
            self._enqueue(state, request, entry, warnings)
            self._writer.flush(WRITE_TIMEOUT_S)
            return self.get_task(task_id)
        return state

    def _enqueue(self, state: TaskState, request: AnyRequest, first: LogEntry, warnings: Sequence[str]) -> None:
        with self._lock:
            self._trainings[state.task_id] = self._training(state, request)
            self._note(first)
            for warning in warnings:
                self._note(LogEntry(state.task_id, "WARNING", warning))
            self._scheduler.add(state.task_id, priority=request.priority, device=state.device)
            self._dispatch()

    def stop_training(self, task_id: str) -> str:
        """Cancel a waiting task, or ask a running one to stop after its batch; returns what happens now.

        Raises:
            TaskNotFound: there is no such task.
            TaskConflict: it has ended, or is stopping already.
        """
        with self._lock:
            training = self._trainings.get(task_id)
            if training is None:
                pass
            elif training.status is TaskStatus.STOPPING:
                raise TaskConflict(f"Task {task_id!r} is stopping already.", code="task_stopping")
            elif training.status is TaskStatus.RUNNING:
                training.stop.set()
                self._change(task_id, TaskStatus.STOPPING, "Stop requested", reason="user_stop")
                return _STOP_MESSAGES[type(training.request)]
            else:
                self._end(task_id, TaskStatus.CANCELLED, "user_stop")
                self._dispatch()
                return "The task was cancelled before it began."
        status = self.get_task(task_id).status  # read without the lock, which every stream needs
        raise TaskConflict(f"Task {task_id!r} has ended ({status.value}).", code="task_ended")

    def update_task_metrics(self, task_id: str, metrics: Mapping[str, Any]) -> None:
        """Merge metrics into a task's `latest_metrics` and `current_epoch` (合并新旧指标) from code that logs none.

        They go the way of every metric, as a line of the log, so the status never shows a value that no
        line explains.
        """
        self.add_log(task_id, "INFO", ", ".join(f"{name}: {value}" for name, value in metrics.items()), metrics=metrics)

    def reparse(self, task_id: str, reading: LogReading) -> TaskState:
        """Read a task's stored lines once more, and its lines to come, by other patterns.

        Raises:
            InvalidRequest: a pattern or the format cannot be used.
            TaskNotFound: there is no such task.
            TaskConflict: it is being read again already.
            TimeoutError: the store did not take what was to be stored before.
            StorageUnavailable: the store does not take writes, or cannot be read.
        """
        self._refuse_while_degraded()
        if problems := check_reading(reading):
            raise InvalidRequest.from_problems(problems)
        self.get_task(task_id)
        with self._lock:
            training = self._trainings.get(task_id)
        self._reparser.reparse(task_id, reading, training.handler if training else None, WRITE_TIMEOUT_S)
        return self.get_task(task_id)

    def delete_task(self, task_id: str) -> None:
        """As in `BaseService`; the service's own folder for the task goes too."""
        self._reparser.refuse_while_busy(task_id)
        super().delete_task(task_id)
        run_dir = (self._runs_dir / task_id).resolve()
        if run_dir.parent == self._runs_dir.resolve():
            shutil.rmtree(run_dir, ignore_errors=True)

    def interrupt(self) -> dict[str, _Training]:
        """Begin to end: start nothing more, and ask what runs to stop after its batch. `close` waits for it."""
        with self._lock:
            self._closing = True
            running = {task_id: training for task_id, training in self._trainings.items() if training.thread}
        self._executors.detach()
        for training in running.values():
            if not training.executor.survives_restart:
                training.stop.set()
        return running

    def close(self) -> bool:
        """Let go of what outlives the service; stop other trainings, each as `failed` with reason `interrupted`.

        Every line is committed. A training that does not reach the end of its batch in time is recorded as
        interrupted all the same.
        """
        running = self.interrupt()
        deadline = time.monotonic() + SHUTDOWN_GRACE_S
        for training in running.values():
            assert training.thread is not None
            training.thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for task_id in running.keys() & self._trainings.keys():
                if not running[task_id].executor.survives_restart:
                    self._interrupt(task_id)
        return super().close()

    def _train_worker(self, task_id: str, device: str) -> None:
        """Run one training from its first line to its last. The body of its background thread."""
        training = self._trainings[task_id]
        trainer_logger = logging.Logger(f"training.{task_id}", logging.DEBUG)
        trainer_logger.addHandler(training.handler)
        status, reason, error = TaskStatus.FAILED, None, None
        try:
            training.executor.run(self._run(task_id, training, device), trainer_logger, training.stop.is_set)
        except Detached:
            return  # it lives on, and the next service reads on
        except TrainingStopped:
            status, reason = TaskStatus.CANCELLED, "user_stop"
        except TrainingFailed as failure:
            reason, error = failure.reason, clean_text(str(failure))
        except BaseException as failure:  # whatever a trainer raises ends its own task only
            logger.exception("Task %s failed", task_id)
            reason, error = "error", clean_text("".join(traceback.format_exception_only(failure)).strip())
            trainer_logger.exception("Training failed: %s", error)
        else:
            status = TaskStatus.COMPLETED
        finally:
            trainer_logger.removeHandler(training.handler)
        with suppress(ServiceError):
            training.handler.finish()
        with self._lock:
            try:
                if task_id not in self._trainings:
                    pass  # the service is closing and did not wait any longer
                elif status is TaskStatus.CANCELLED and self._closing:
                    self._interrupt(task_id)
                else:
                    self._end(task_id, status, reason, error)
            finally:
                self._dispatch()

    def _run(self, task_id: str, training: _Training, device: str) -> Run:
        """Raises: OSError: the task's folder cannot be made."""
        run_dir = self._runs_dir / task_id
        run_dir.mkdir(parents=True, exist_ok=True)
        return Run(
            task_id, training.request, training.output_dir, device, run_dir, training.position, training.is_resumed
        )

    def _dispatch(self) -> None:
        """Start whatever can run now; tell the rest that they wait. Call with the lock held."""
        if self._closing:
            return
        while runnable := self._scheduler.next_runnable():
            task_id, device = runnable
            what = "Reading starts" if device == FILE else f"Training starts on {device}"
            self._change(task_id, TaskStatus.RUNNING, what, device=device)
            self._start(task_id, device)
        for task_id, training in self._trainings.items():
            if training.status is TaskStatus.PENDING:
                self._change(task_id, TaskStatus.QUEUED, "Waiting for a free device")

    def _start(self, task_id: str, device: str) -> None:
        training = self._trainings[task_id]
        training.thread = threading.Thread(
            target=self._train_worker, args=(task_id, device), name=f"training-{task_id}"
        )
        try:
            training.thread.start()
        except RuntimeError as error:  # the system allows no more threads
            training.thread = None
            self._end(task_id, TaskStatus.FAILED, "error", f"The training could not be started: {error}")

    def _change(self, task_id: str, status: TaskStatus, message: str, **change: str | None) -> None:
        training = self._trainings[task_id]
        assert status in TRANSITIONS[training.status], f"{task_id}: {training.status} cannot become {status}"
        training.status = status
        level = "ERROR" if status is TaskStatus.FAILED else "INFO"
        stage = Stage.COMPLETED.value if status is TaskStatus.COMPLETED else None
        self._note(LogEntry(task_id, level, message, stage=stage, change=StatusChange(status, **change)))

    def _note(self, entry: LogEntry) -> None:
        """Add a line of the service's own. May be called with the lock held."""
        self.log_queues[entry.task_id].put(entry, wait_for_space=False)

    def _end(self, task_id: str, status: TaskStatus, reason: str | None, error: str | None = None) -> None:
        """Free a task's place, write its last line and forget it. Call with the lock held."""
        self._scheduler.discard(task_id)
        self._change(task_id, status, LAST_MESSAGE, reason=reason, error=error)
        del self._trainings[task_id]

    def _interrupt(self, task_id: str) -> None:
        """End a training that the service's own end has cut short. Call with the lock held."""
        if self._trainings[task_id].status is TaskStatus.STOPPING:
            self._end(task_id, TaskStatus.CANCELLED, "user_stop")
            return
        self._note(LogEntry(task_id, "ERROR", INTERRUPTED))
        self._end(task_id, TaskStatus.FAILED, "interrupted", INTERRUPTED)


_STOP_MESSAGES: Mapping[type[AnyRequest], str] = {
    TrainingRequest: "Stop requested: the training ends after its current batch.",
    CommandRequest: "Stop requested: the command is asked to end, and killed if it does not.",
    ImportRequest: "Stop requested: the file is read no further.",
}
