"""Trainings: accepted, queued, run on a background thread each, and read from their own log lines."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.schemas import (
    AnyRequest,
    CommandRequest,
    ImportRequest,
    LogReading,
    ResourcesResponse,
    Stage,
    TaskStatus,
    TrainingRequest,
)
from services.base_service import WRITE_TIMEOUT_S, BaseService
from services.checks import RESERVED_TASK_IDS, check_allowed, find_problems, resolve_device, save_path_problems
from services.claims import Claims
from services.deadlines import Deadlines
from services.devices import CPU, FILE, Gpu
from services.errors import InvalidRequest, PathForbidden, ServiceError, StorageUnavailable, TaskConflict, TaskNotFound
from services.executors.base import Detached, Executor, Run
from services.executors.choice import Executors
from services.latest_metrics import LatestMetrics
from services.log_entry import LogEntry, StatusChange, clean_text
from services.log_handler import TrainingLogHandler
from services.memory import release_free_memory
from services.parsing import LineParser, Memory, check_reading
from services.paths import PathPolicy, claim_output_dir
from services.reparse import Reparser
from services.requests import describe, from_stored, from_stored_unchecked, new_task, problems_in_words
from services.resources import check_devices, describe_resources, list_devices
from services.resuming import check_resumable, refuse_unless_ended_early
from services.scheduler import Scheduler
from services.state_machine import (
    FINISHED,
    INTERRUPTED,
    RESUMED,
    STARTED,
    TIMEOUT,
    USER_STOP,
    WAITING,
    may_follow,
    restarts,
)
from services.storage.database import Database
from services.storage.operations import SetLimits
from services.task_state import IMPORT, TaskState
from trainer.errors import TrainingFailed, TrainingStopped

__all__ = ["LAST_MESSAGE", "RESERVED_TASK_IDS", "LatestMetrics", "TrainingLogHandler", "TrainingService"]

logger = logging.getLogger(__name__)

INTERRUPTION = "The service ended during this training."
NO_GPU = "No CUDA GPU on this machine: training on the CPU."
LAST_MESSAGE = "任务结束"
"""Message of every task's last line; deployed clients print it."""

STOP_WRITE_TIMEOUT_S = 2.0
"""How long a stop waits to be stored before the trainer is told of it all the same."""

SHUTDOWN_GRACE_S = 2.5
"""How long running trainings get to reach the end of their batch when the service ends."""


@dataclass(slots=True)
class _Training:
    """What the service knows about a task beyond its committed state: how far it has been told to go.

    Attributes:
        attempt: which run of the task this is.
        restarts: how often the service has let it begin again by itself.
        is_resumed: an earlier service process has begun this run.
        stop_reason: why it is to stop, once it is.
    """

    request: AnyRequest
    output_dir: Path
    status: TaskStatus
    executor: Executor
    handler: TrainingLogHandler
    attempt: int = 1
    restarts: int = 0
    position: int = 0
    is_resumed: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    stop_reason: str = ""
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
        self._claims = Claims(self._runs_dir / ".claims")  # no task has an id like this
        self._trainings: dict[str, _Training] = {}
        self._deleting: set[str] = set()
        self._deadlines = Deadlines(self._expire)
        self._closing = False

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def queued(self) -> int:
        return self._scheduler.queued

    def resume_queue(self) -> None:
        """Take up what an earlier service process left.

        Queued tasks wait again. What has outlived that process is read on; other trainings begin again, at their
        last checkpoint, as often as they may.
        """
        self._claims.undo(self.store.has_output_dir)
        self._scheduler.set_limits(self.store.device_limits())
        for state in self.store.active_tasks():
            self.adopt(state)
            with self._lock:
                try:
                    self._take_up(state)
                except StorageUnavailable:
                    raise
                except Exception as error:  # what is wrong with one task is no other's business
                    logger.exception("Task %s could not be taken up", state.task_id)
                    self._trainings.pop(state.task_id, None)
                    self._scheduler.discard(state.task_id)
                    failure = StatusChange(TaskStatus.FAILED, "error", f"It could not be taken up: {error!r}")
                    self._note(LogEntry(state.task_id, "ERROR", LAST_MESSAGE, change=failure))
        with self._lock:
            self._dispatch()

    def _take_up(self, state: TaskState) -> None:
        """Queue again what waited; read on, or begin again, what ran. Call with the lock held."""
        task_id, request = state.task_id, from_stored_unchecked(state)
        has_begun = state.status in (TaskStatus.RUNNING, TaskStatus.STOPPING)
        memory = None
        if has_begun and self._executor_of(state).survives_restart:
            position, memory = self.store.read_progress(task_id)
        self._trainings[task_id] = training = self._training(state, request, memory)
        self._limit_time(task_id, since=state.history[-1].at)
        if state.status is TaskStatus.STOPPING:
            training.stop.set()
            training.stop_reason = state.reason or USER_STOP
        if not has_begun:
            self._wait_for_device(state)
        elif training.executor.survives_restart:
            training.position, training.is_resumed = position, True
            self._scheduler.adopt(task_id, device=state.device)
            self._start(task_id, state.device)
        else:
            self._interrupt(task_id)

    def _wait_for_device(self, state: TaskState) -> None:
        """Put a stored task into the queue, as far as it is still allowed and possible. Call with the lock held."""
        task_id = state.task_id
        try:
            request = self._trainings[task_id].request = from_stored(state)
            check_allowed(request, self._paths, allow_commands=self._allow_commands)
            if problems := check_reading(request):
                raise InvalidRequest.from_problems(problems)
        except ValidationError as error:  # an older release let it in
            self._end(task_id, TaskStatus.FAILED, "invalid_request", error=clean_text(problems_in_words(error)))
            return
        except ServiceError as error:  # other settings did
            self._end(task_id, TaskStatus.FAILED, error.code, error=clean_text(str(error)))
            return
        device, problem = resolve_device(request, self._gpus)
        if problem:
            self._end(task_id, TaskStatus.FAILED, problem[0].code, error=f"device: {problem[0].message}")
            return
        if device == CPU and state.device != CPU:
            self._note(LogEntry(task_id, "WARNING", NO_GPU))
        self._scheduler.add(task_id, priority=state.priority, created_at=state.created_at, device=device)

    def _training(self, state: TaskState, request: AnyRequest, memory: Memory | None = None) -> _Training:
        readable = LogReading() if check_reading(request) else request  # an older release let another one in
        parser = LineParser(readable.metric_definitions, readable.log_format, memory)
        handler = TrainingLogHandler(state.task_id, self, parser, state.warnings, attempt=state.attempt)
        return _Training(
            request,
            Path(state.output_dir),
            state.status,
            self._executor_of(state),
            handler,
            attempt=state.attempt,
            restarts=restarts(state.history),
        )

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
            QueueFull: it would have to wait, and as many wait as may.
            StorageUnavailable: the store does not take writes, or the service is shutting down.
        """
        self._refuse_while_degraded()
        if self._closing:
            raise StorageUnavailable("The service is shutting down.", code="shutting_down")
        check_allowed(request, self._paths, allow_commands=self._allow_commands)
        device, device_problem = resolve_device(request, self._gpus)
        problems = [*device_problem, *find_problems(request, self._paths), *save_path_problems(request, self._runs_dir)]
        if problems:
            raise InvalidRequest.from_problems(problems)
        task_id = request.task_id or str(uuid.uuid4())
        with self._admission(task_id, device):
            return self._accept(request, task_id, device)

    def _accept(self, request: AnyRequest, task_id: str, device: str) -> TaskState:
        """Make a task of a request that has been checked, and run it as soon as its device is free."""
        if isinstance(request, TrainingRequest):
            with self._claims.noted(task_id, Path(request.save_path).absolute() / (request.name or task_id)):
                output_dir = claim_output_dir(request.save_path, request.name, task_id, self._paths.save_roots)
                return self._store_and_run(request, task_id, device, output_dir)
        return self._store_and_run(request, task_id, device, self._runs_dir / task_id)

    def _store_and_run(self, request: AnyRequest, task_id: str, device: str, output_dir: Path) -> TaskState:
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
        self._remove_run_dir(task_id)  # of a task in another store, or whose removal was cut short
        try:
            self.create_log_queue(task_id, state)
        except BaseException as error:
            if isinstance(request, TrainingRequest):
                with suppress(OSError):
                    output_dir.rmdir()
            if isinstance(error, TimeoutError):
                raise StorageUnavailable("The store did not take the task in time. Look at its disk.") from error
            raise
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
            self._scheduler.add(
                state.task_id, priority=request.priority, created_at=state.created_at, device=state.device
            )
            self._limit_time(state.task_id)
            self._dispatch()

    def resume_training(self, task_id: str) -> TaskState:
        """Let a training that has failed, or was stopped, go on as the same task.

        It does so at the epoch after its last checkpoint; one that has not come so far begins with its first epoch.

        Raises:
            TaskNotFound: there is no such task.
            TaskConflict: it cannot be resumed; the code says why.
            InvalidRequest: what it was asked to do is not possible any more.
            PathForbidden: a path of it is outside the configured roots now.
            QueueFull: it would have to wait, and as many wait as may.
            StorageUnavailable: the store does not take writes, or the service is shutting down.
        """
        self._refuse_while_degraded()
        device = check_resumable(self.get_task(task_id), self._paths, self._gpus)
        with self._lock:
            if self._closing:
                raise StorageUnavailable("The service is shutting down.", code="shutting_down")
            if task_id in self._deleting:
                raise TaskNotFound(task_id)
            self._reparser.refuse_while_busy(task_id)
            state = self.get_task(task_id)  # nothing can change it from here on
            refuse_unless_ended_early(state)
            if task_id in self.log_queues:  # the store does not know yet that it goes on, or even that it has ended
                raise TaskConflict(f"Task {task_id!r} is being resumed already.", code="task_active")
            self._scheduler.refuse_when_full(device)
            self.adopt(state)
            self._trainings[task_id] = self._training(state, from_stored_unchecked(state))
            self._begin_again(task_id, RESUMED, "Resume requested")
            self._dispatch()
        with suppress(TimeoutError, StorageUnavailable):
            self._writer.flush(WRITE_TIMEOUT_S)
        return self.get_task(task_id)

    def stop_training(self, task_id: str) -> str:
        """Cancel a waiting task, or ask a running one to stop after its batch; returns what happens now.

        Raises:
            TaskNotFound: there is no such task.
            TaskConflict: it has ended, or is stopping already.
        """
        with self._lock:
            training = self._trainings.get(task_id)
            if training is not None and training.status is TaskStatus.STOPPING:
                raise TaskConflict(f"Task {task_id!r} is stopping already.", code="task_stopping")
            if training is not None and training.status is TaskStatus.RUNNING:
                self._ask_to_stop(task_id, USER_STOP, "Stop requested")
                answer = _STOP_MESSAGES[type(training.request)]
            elif training is not None:
                self._end(task_id, TaskStatus.CANCELLED, USER_STOP)
                self._dispatch()
                answer = "The task was cancelled before it began."
        if training is None:
            status = self.get_task(task_id).status  # read without the lock, which every stream needs
            raise TaskConflict(f"Task {task_id!r} has ended ({status.value}).", code="task_ended")
        self._stop_when_stored(training)
        return answer

    def _ask_to_stop(self, task_id: str, reason: str, message: str, level: str = "INFO") -> None:
        """Decide that a running training stops. Call with the lock held, and `_stop_when_stored` without it."""
        self._trainings[task_id].stop_reason = reason
        self._change(task_id, TaskStatus.STOPPING, message, reason=reason, level=level)

    def _stop_when_stored(self, training: _Training) -> None:
        """Tell the trainer, once the next service would know why it ends. A store that refuses is not waited for."""
        if not self.storage_degraded:
            with suppress(TimeoutError, StorageUnavailable):
                self._writer.flush(STOP_WRITE_TIMEOUT_S)
        training.stop.set()

    def _expire(self, task_id: str) -> None:
        """End a task that waits, or runs, for longer than it may."""
        with self._lock:
            training = self._trainings.get(task_id)
            if training is None or self._closing or not self._deadlines.is_due(task_id):
                return
            if training.status is TaskStatus.RUNNING:
                self._ask_to_stop(task_id, TIMEOUT, f"{_too_long(training)} It is stopped.", "WARNING")
            else:
                self._end(task_id, TaskStatus.FAILED, TIMEOUT, error=_too_long(training))
                self._dispatch()
        self._stop_when_stored(training)

    def flush_log(self, task_id: str) -> None:
        """As in `BaseService`; in the thread of a training, a store that refuses is waited for until it is to stop.

        Raises:
            TrainingStopped: it is, and its lines are not stored: no checkpoint may say that they are.
            Detached: the same of one that survives this service.
        """
        training = self._trainings.get(task_id)
        if training is None or training.thread is not threading.current_thread():
            super().flush_log(task_id)
            return
        while True:
            is_last_try = training.stop.is_set()
            try:
                super().flush_log(task_id)
            except TimeoutError:
                if is_last_try:
                    raise TrainingStopped from None
            except StorageUnavailable:  # the service has ended
                raise (Detached if training.executor.survives_restart else TrainingStopped) from None
            else:
                return

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
        """As in `BaseService`; the service's own folder for the task goes too. Until then nobody else gets its id."""
        self._reparser.refuse_while_busy(task_id)
        self._refuse_unless_ended(task_id)
        with self._lock:
            if task_id in self._deleting:
                raise TaskNotFound(task_id)
            self._deleting.add(task_id)
        done: Future[None] | None = None
        try:
            done = self._submit_delete(task_id)
            done.result(WRITE_TIMEOUT_S)
            self._remove_run_dir(task_id)
        finally:
            if done is None:
                self._deleting.discard(task_id)
            else:  # a store that has not answered in time may still delete it
                done.add_done_callback(lambda _done: self._deleting.discard(task_id))

    def _remove_run_dir(self, task_id: str) -> None:
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
        """Let go of what outlives the service; stop other trainings, which go on when there is a service again.

        Every line is committed. A training that does not reach the end of its batch in time is recorded as
        interrupted all the same.
        """
        running = self.interrupt()
        self._deadlines.close()
        deadline = time.monotonic() + SHUTDOWN_GRACE_S
        for training in running.values():
            assert training.thread is not None
            training.thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for task_id, training in running.items():
                if self._trainings.get(task_id) is training and not training.executor.survives_restart:
                    self._interrupt(task_id)
        return super().close()

    def _train_worker(self, task_id: str, device: str) -> None:
        """Run one training from its first line to its last. The body of its background thread."""
        training = self._trainings[task_id]
        trainer_logger = logging.Logger(f"training.{task_id}", logging.DEBUG)
        trainer_logger.addHandler(training.handler)
        status, reason, error = TaskStatus.FAILED, "error", None
        was_stopped = False
        try:
            if not training.is_resumed:  # what the request names may lead elsewhere by now
                check_allowed(training.request, self._paths, allow_commands=self._allow_commands)
                self.flush_log(task_id)  # the next service must know of whatever is running
            training.executor.run(self._run(task_id, training, device), trainer_logger, training.stop.is_set)
        except Detached:
            return  # it lives on, and the next service reads on
        except TrainingStopped:
            was_stopped = True
        except TrainingFailed as failure:
            reason, error = failure.reason, clean_text(str(failure))
        except PathForbidden as refusal:
            reason, error = refusal.code, clean_text(str(refusal))
        except BaseException as failure:  # whatever a trainer raises ends its own task only
            logger.exception("Task %s failed", task_id)
            error = clean_text("".join(traceback.format_exception_only(failure)).strip())
            trainer_logger.exception("Training failed: %s", error)
        else:
            status, reason = TaskStatus.COMPLETED, FINISHED
        finally:
            trainer_logger.removeHandler(training.handler)
        if not training.executor.survives_restart:  # it ran here; an exception, which held on to its network, is gone
            release_free_memory()
        with suppress(ServiceError):
            training.handler.finish()
        with self._lock:
            try:
                if self._trainings.get(task_id) is not training:
                    pass  # the service is closing and did not wait any longer
                elif was_stopped or reason == INTERRUPTED:
                    self._interrupt(task_id, error or INTERRUPTION)
                else:
                    self._end(task_id, status, reason, error=error)
            finally:
                self._dispatch()

    def _run(self, task_id: str, training: _Training, device: str) -> Run:
        """Raises: OSError: the task's folder cannot be made."""
        run_dir = self._runs_dir / task_id
        if training.attempt > 1:
            run_dir /= f"attempt-{training.attempt}"
        run_dir.mkdir(parents=True, exist_ok=True)
        return Run(
            task_id,
            training.request,
            training.output_dir,
            device,
            run_dir,
            attempt=training.attempt,
            position=training.position,
            is_resumed=training.is_resumed,
        )

    def _dispatch(self) -> None:
        """Start whatever can run now; tell the rest that they wait. Call with the lock held."""
        if self._closing:
            return
        while runnable := self._scheduler.next_runnable():
            task_id, device = runnable
            what = "Reading starts" if device == FILE else f"Training starts on {device}"
            self._change(task_id, TaskStatus.RUNNING, what, reason=STARTED, device=device)
            self._start(task_id, device)
        for task_id, training in self._trainings.items():
            if training.status is TaskStatus.PENDING:
                self._change(task_id, TaskStatus.QUEUED, "Waiting for a free device", reason=WAITING)

    def _start(self, task_id: str, device: str) -> None:
        training = self._trainings[task_id]
        training.thread = threading.Thread(
            target=self._train_worker, args=(task_id, device), name=f"training-{task_id}"
        )
        try:
            training.thread.start()
        except RuntimeError as error:  # the system allows no more threads
            training.thread = None
            self._end(task_id, TaskStatus.FAILED, "error", error=f"The training could not be started: {error}")

    def _change(
        self,
        task_id: str,
        status: TaskStatus,
        message: str,
        *,
        reason: str,
        error: str | None = None,
        device: str | None = None,
        level: str = "INFO",
        attempt: int = 0,
    ) -> None:
        """Give a task a status, by a line of its log. An `attempt` that begins with it has not been read at all yet."""
        training = self._trainings[task_id]
        assert may_follow(training.status, status), f"{task_id}: {training.status} cannot become {status}"
        training.status = status
        self._limit_time(task_id)
        self._note(
            LogEntry(
                task_id,
                "ERROR" if status is TaskStatus.FAILED else level,
                message,
                stage=Stage.COMPLETED.value if status is TaskStatus.COMPLETED else None,
                change=StatusChange(status, reason, error, device),
                attempt=attempt,
                position=0 if attempt else None,
            )
        )

    def _limit_time(self, task_id: str, since: datetime | None = None) -> None:
        """Set the deadline of the status that a task has, or had taken at `since`. Call with the lock held."""
        limit = _time_limit(self._trainings[task_id])
        if limit is None:
            self._deadlines.clear(task_id)
        else:
            self._deadlines.set(task_id, limit - (datetime.now(UTC) - since).total_seconds() if since else limit)

    def _note(self, entry: LogEntry) -> None:
        """Add a line of the service's own. May be called with the lock held."""
        self.log_queues[entry.task_id].put(entry, wait_for_space=False)

    def _end(self, task_id: str, status: TaskStatus, reason: str, *, error: str | None = None) -> None:
        """Free a task's place, write its last line and forget it. Call with the lock held."""
        self._scheduler.discard(task_id)
        self._change(task_id, status, LAST_MESSAGE, reason=reason, error=error)
        del self._trainings[task_id]

    def _interrupt(self, task_id: str, why: str = INTERRUPTION) -> None:
        """Conclude a run that was cut short: on purpose, or else it begins again if it may. Call with the lock held."""
        training = self._trainings[task_id]
        if training.stop_reason == TIMEOUT:
            self._end(task_id, TaskStatus.FAILED, TIMEOUT, error=_too_long(training))
        elif training.stop_reason:
            self._end(task_id, TaskStatus.CANCELLED, training.stop_reason)
        elif isinstance(training.request, TrainingRequest) and training.restarts < training.request.max_restarts:
            self._begin_again(task_id, INTERRUPTED, f"{why} It goes on at its last checkpoint.")
        else:
            if isinstance(training.request, TrainingRequest):
                why += f" That was once more than max_restarts ({training.request.max_restarts}) allows: resume it."
            self._note(LogEntry(task_id, "ERROR", why))
            self._end(task_id, TaskStatus.FAILED, INTERRUPTED, error=why)

    def _begin_again(self, task_id: str, reason: str, message: str) -> None:
        """Put a training back into the queue, for its next attempt. Call with the lock held."""
        state, before = self.tasks[task_id], self._trainings[task_id]
        self._scheduler.discard(task_id)
        level = "WARNING" if reason == INTERRUPTED else "INFO"
        self._change(task_id, TaskStatus.QUEUED, message, reason=reason, level=level, attempt=before.attempt + 1)
        state = replace(state, status=TaskStatus.QUEUED, attempt=before.attempt + 1)
        self._trainings[task_id] = training = self._training(state, from_stored_unchecked(state))
        training.restarts = before.restarts + 1 if reason == INTERRUPTED else 0
        if not self._closing:
            self._wait_for_device(state)

    def queue_positions(self) -> Mapping[str, int]:
        """For each task that waits its place, 1 is next, among those that compete for the same device."""
        return self._scheduler.positions()

    def change_priority(self, task_id: str, priority: int) -> TaskState:
        """Move a task that waits to another place in the queue.

        Raises:
            TaskNotFound: there is no such task.
            TaskConflict: it does not wait (any more).
            TimeoutError: the change has been made, but the store has not taken it yet.
            StorageUnavailable: the store does not take writes, or the service is shutting down.
        """
        self._refuse_while_degraded()
        with self._lock:
            waiting = self._scheduler.find(task_id)
            if waiting is not None and waiting.priority != priority:
                what = f"Priority changed from {waiting.priority} to {priority}"
                self._note(LogEntry(task_id, "INFO", what, priority=priority))
                self._scheduler.set_priority(task_id, priority)
        if waiting is None:
            status = self.get_task(task_id).status.value
            raise TaskConflict(
                f"Task {task_id!r} is {status}: only a task that waits in the queue has a priority to change.",
                code="not_queued",
            )
        self._writer.flush(WRITE_TIMEOUT_S)
        return self.get_task(task_id)

    def resources(self) -> ResourcesResponse:
        """What runs and waits on each device, and how much may."""
        gpus = self._gpus()
        with self._lock:
            return describe_resources(self._scheduler, gpus)

    def set_limits(self, limits: Mapping[str, int | None]) -> ResourcesResponse:
        """Change how many tasks may run at a time on these devices, and start what has room now.

        Args:
            limits: 0 starts nothing more there, `None` is what the settings say. Nothing that runs is stopped.

        Raises:
            InvalidRequest: there is no such device.
            TimeoutError: they have been changed, but the store has not taken them yet.
            StorageUnavailable: the store does not take writes, or the service is shutting down.
        """
        self._refuse_while_degraded()
        gpus = self._gpus()
        with self._lock:
            check_devices(limits, list_devices(self._scheduler, gpus))
            done = self._writer.submit(SetLimits(dict(limits)), wait_for_space=False, want_future=True)
            self._scheduler.set_limits(limits)
            self._dispatch()
            now = describe_resources(self._scheduler, gpus)
        assert done is not None
        done.result(WRITE_TIMEOUT_S)
        return now

    @contextmanager
    def _admission(self, task_id: str, device: str) -> Iterator[None]:
        """While a new task is being accepted nobody else gets its id, nor its place in the queue.

        Raises:
            TaskConflict: there is a task of this id already.
            QueueFull: it would have to wait, and as many wait as may.
        """
        self._refuse_taken(task_id)  # asked first, so that whoever repeats a start learns that it was heard
        with self._lock:
            self._scheduler.expect(task_id, device=device)
        try:
            self._refuse_taken(task_id)  # it may have come, and even ended, since
            yield
        finally:
            with self._lock:
                self._scheduler.forget(task_id)

    def _refuse_taken(self, task_id: str) -> None:
        if task_id in self._deleting:
            raise TaskConflict(f"Task {task_id!r} is being deleted. Try again later.", code="task_id_in_use")
        if task_id in self.tasks or self.store.get_task(task_id) is not None:
            raise TaskConflict(f"There is a task {task_id!r} already. Choose another task_id.", code="task_id_in_use")


def _time_limit(training: _Training) -> float | None:
    """Seconds that a task may stay in the status that it has."""
    if training.status is TaskStatus.RUNNING:
        return training.request.max_runtime_s
    return training.request.max_queue_s if training.status in (TaskStatus.PENDING, TaskStatus.QUEUED) else None


def _too_long(training: _Training) -> str:
    if training.stop_reason or training.status is TaskStatus.RUNNING:
        return f"It has run for longer than max_runtime_s allows ({training.request.max_runtime_s:g} s)."
    return f"It has waited for longer than max_queue_s allows ({training.request.max_queue_s:g} s)."


_STOP_MESSAGES: Mapping[type[AnyRequest], str] = {
    TrainingRequest: "Stop requested: the training ends after its current batch.",
    CommandRequest: "Stop requested: the command is asked to end, and killed if it does not.",
    ImportRequest: "Stop requested: the file is read no further.",
}
