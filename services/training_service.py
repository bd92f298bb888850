"""Trainings: accepted, queued, run on a background thread each, and read from their own log lines."""

from __future__ import annotations

import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.schemas import FieldProblem, Stage, TaskStatus, TrainingRequest
from services.base_service import WRITE_TIMEOUT_S, BaseService
from services.devices import ANY_GPU, CPU, Gpu
from services.errors import InvalidRequest, ServiceError, StorageUnavailable, TaskConflict, TaskNotFound
from services.executors.base import Executor, Run
from services.log_entry import LogEntry, Metrics, StatusChange, clean_text
from services.parsing import LineParser
from services.paths import PathPolicy, claim_output_dir
from services.scheduler import Scheduler
from services.storage.database import Database
from services.task_state import TRANSITIONS, TaskState
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.preflight import check

logger = logging.getLogger(__name__)

INTERRUPTED = "The service ended during this training."
NO_GPU = "No CUDA GPU on this machine: training on the CPU."
LAST_MESSAGE = "任务结束"
"""Message of every task's last line; deployed clients print it."""

RESERVED_TASK_IDS = frozenset({"start", "events", "compare", "import", "parsing", "models"})
"""Words that are, or may become, routes beside `/api/v2/training/{task_id}`."""

SHUTDOWN_GRACE_S = 2.5
"""How long running trainings get to reach the end of their batch when the service ends."""


class TrainingLogHandler(logging.Handler):
    """Reads one task's metrics from its trainer's own log records (拦截训练日志并提取指标).

    Put on the trainer's logger, it is all that connects a trainer to the service.
    """

    def __init__(self, task_id: str, service: BaseService) -> None:
        super().__init__()
        self.task_id = task_id
        self.service = service
        self._parser = LineParser()

    def emit(self, record: logging.LogRecord) -> None:
        """Parse and hand on a record, line by line. Never raises; waits only while the store refuses lines."""
        try:
            for line in self.format(record).split("\n"):
                parsed = self._parser.parse(line)
                self.service.add_log(
                    self.task_id, record.levelname, line, metrics=parsed.metrics, step=parsed.step, stage=parsed.stage
                )
        except ServiceError:
            return  # the task has ended: what its stray threads still say belongs to no task
        except Exception:  # noqa: BLE001 - a handler must not break the trainer that logs
            self.handleError(record)


@dataclass(slots=True)
class _Training:
    """What the service knows about a task beyond its committed state: how far it has been told to go."""

    request: TrainingRequest
    output_dir: Path
    status: TaskStatus
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class LatestMetrics(Mapping[str, Metrics]):
    """`latest_metrics[task_id]`: a view of the tasks' states, which alone hold the values. Lists the live ones."""

    def __init__(self, service: BaseService) -> None:
        self._service = service

    def __getitem__(self, task_id: str) -> Metrics:
        try:
            return self._service.get_task(task_id).latest_metrics
        except TaskNotFound:
            raise KeyError(task_id) from None

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._service.tasks))

    def __len__(self) -> int:
        return len(self._service.tasks)


class TrainingService(BaseService):
    """Owns the queue and the running trainings.

    Args:
        database: an open store; tasks in it that had not ended are taken up again by `resume_queue`.
        executor: runs the trainer.
        scheduler: decides what runs next; used under this service's lock only.
        gpus: GPUs of this machine.
        paths: where requests may read and write.
    """

    def __init__(
        self,
        database: Database,
        *,
        executor: Executor,
        scheduler: Scheduler,
        gpus: Callable[[], Sequence[Gpu]],
        paths: PathPolicy,
    ) -> None:
        super().__init__(database)
        self.latest_metrics = LatestMetrics(self)
        self._executor = executor
        self._scheduler = scheduler
        self._gpus = gpus
        self._paths = paths
        self._trainings: dict[str, _Training] = {}
        self._closing = False

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def queued(self) -> int:
        return self._scheduler.queued

    def resume_queue(self) -> None:
        """Take up what an earlier service process left: queued tasks wait again, running ones have failed."""
        for state in self.store.active_tasks():
            self.adopt(state)
            with self._lock:
                self._take_up(state)
        with self._lock:
            self._dispatch()

    def _take_up(self, state: TaskState) -> None:
        """Queue again what waited, as far as it is still allowed and possible; end what ran."""
        request = TrainingRequest.model_construct(**state.request)
        self._trainings[state.task_id] = training = _Training(request, Path(state.output_dir), state.status)
        if state.status not in (TaskStatus.PENDING, TaskStatus.QUEUED):
            self._interrupt(state.task_id)
            return
        try:
            training.request = request = TrainingRequest.model_validate(state.request)
            self._check_paths(request)
        except (ValidationError, ServiceError) as error:  # an older release, or other settings, let it in
            self._end(state.task_id, TaskStatus.FAILED, "invalid_request", clean_text(str(error)))
            return
        device, problem = self._resolve_device(request.device)
        if problem:
            self._end(state.task_id, TaskStatus.FAILED, problem[0].code, f"device: {problem[0].message}")
            return
        if device == CPU and state.device != CPU:
            self._note(LogEntry(state.task_id, "WARNING", NO_GPU))
        self._scheduler.add(state.task_id, priority=state.priority, device=device)

    def start_training(self, request: TrainingRequest) -> TaskState:
        """Check a request, give it a task, and run it as soon as its device is free.

        Raises:
            InvalidRequest: a field cannot be used; each is named with what to do.
            PathForbidden: a path is outside the configured roots.
            TaskConflict: the `task_id` or the `name` is in use.
            StorageUnavailable: the store does not take writes, or the service is shutting down.
        """
        self._refuse_while_degraded()
        if self._closing:
            raise StorageUnavailable("The service is shutting down.", code="shutting_down")
        self._check_paths(request)
        device, device_problem = self._resolve_device(request.device)
        problems = [*_check_task_id(request.task_id), *device_problem, *check(request)]
        if problems:
            raise InvalidRequest.from_problems(problems)
        task_id = request.task_id or str(uuid.uuid4())
        if task_id in self.tasks or self.store.get_task(task_id) is not None:
            raise TaskConflict(f"There is a task {task_id!r} already. Choose another task_id.", code="task_id_in_use")
        output_dir = claim_output_dir(request.save_path, request.name, task_id)
        entry = LogEntry(task_id, "INFO", f"Task accepted: {request.model}, {request.num_epochs} epochs on {device}")
        unknown = tuple(
            f"Unknown field {clean_text(name)!r} was ignored." for name in sorted(request.model_extra or ())
        )
        state = TaskState(
            task_id=task_id,
            request=_stored_request(request),
            output_dir=str(output_dir),
            device=device,
            created_at=entry.timestamp,
            updated_at=entry.timestamp,
            current_epoch=0,
            total_epochs=request.num_epochs,
            name=request.name,
            description=request.description,
            priority=request.priority,
            warnings=unknown,
        )
        try:
            self.create_log_queue(task_id, state)
        except BaseException as error:
            output_dir.rmdir()
            if isinstance(error, TimeoutError):
                raise StorageUnavailable("The store did not take the task in time. Look at its disk.") from error
            raise
        warnings = list(unknown)
        if device == CPU and request.device != CPU:
            warnings.append(NO_GPU)
        # From here on the task is accepted: it is in the store, and will run. At worst its first lines
        # wait, or the service is closing and the next one takes it up.
        with suppress(TimeoutError, StorageUnavailable):
            self._enqueue(state, request, output_dir, entry, warnings)
            self._writer.flush(WRITE_TIMEOUT_S)
            return self.get_task(task_id)
        return state

    def _enqueue(
        self, state: TaskState, request: TrainingRequest, output_dir: Path, first: LogEntry, warnings: Sequence[str]
    ) -> None:
        with self._lock:
            self._trainings[state.task_id] = _Training(request, output_dir, TaskStatus.PENDING)
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
                return "Stop requested: the training ends after its current batch."
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

    def interrupt(self) -> dict[str, _Training]:
        """Begin to end: start nothing more, and ask what runs to stop after its batch. `close` waits for it."""
        with self._lock:
            self._closing = True
            running = {task_id: training for task_id, training in self._trainings.items() if training.thread}
        for training in running.values():
            training.stop.set()
        return running

    def close(self) -> bool:
        """Stop running trainings, each as `failed` with reason `interrupted`; commit every line; end.

        A training that does not reach the end of its batch in time is recorded as such all the same.
        """
        running = self.interrupt()
        deadline = time.monotonic() + SHUTDOWN_GRACE_S
        for training in running.values():
            assert training.thread is not None
            training.thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for task_id in running.keys() & self._trainings.keys():
                self._interrupt(task_id)
        return super().close()

    def _train_worker(self, task_id: str, device: str) -> None:
        """Run one training from its first line to its last. The body of its background thread."""
        training = self._trainings[task_id]
        trainer_logger = logging.Logger(f"training.{task_id}", logging.DEBUG)
        handler = TrainingLogHandler(task_id, self)
        trainer_logger.addHandler(handler)
        status, reason, error = TaskStatus.FAILED, None, None
        try:
            self._executor.run(Run(training.request, training.output_dir, device), trainer_logger, training.stop.is_set)
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
            trainer_logger.removeHandler(handler)
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

    def _dispatch(self) -> None:
        """Start whatever can run now; tell the rest that they wait. Call with the lock held."""
        if self._closing:
            return
        while runnable := self._scheduler.next_runnable():
            task_id, device = runnable
            training = self._trainings[task_id]
            training.thread = threading.Thread(
                target=self._train_worker, args=(task_id, device), name=f"training-{task_id}"
            )
            self._change(task_id, TaskStatus.RUNNING, f"Training starts on {device}", device=device)
            try:
                training.thread.start()
            except RuntimeError as error:  # the system allows no more threads
                training.thread = None
                self._end(task_id, TaskStatus.FAILED, "error", f"The training could not be started: {error}")
        for task_id, training in self._trainings.items():
            if training.status is TaskStatus.PENDING:
                self._change(task_id, TaskStatus.QUEUED, "Waiting for a free device")

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

    def _check_paths(self, request: TrainingRequest) -> None:
        self._paths.check_data("train_path", request.train_path)
        self._paths.check_data("val_path", request.val_path)
        if request.weight_path:
            self._paths.check_data("weight_path", request.weight_path)
        self._paths.check_save("save_path", request.save_path)

    def _resolve_device(self, wanted: str) -> tuple[str, list[FieldProblem]]:
        if wanted == CPU:
            return CPU, []
        names = [gpu.name for gpu in self._gpus()]
        if wanted == ANY_GPU:
            return (ANY_GPU if names else CPU), []
        if wanted in names:
            return wanted, []
        devices = ", ".join([CPU, *names])
        message = f"there is no {wanted} on this machine, which has: {devices}"
        return CPU, [FieldProblem(field="device", code="device_not_found", message=message)]


def _stored_request(request: TrainingRequest) -> dict[str, Any]:
    """What was asked for, with absolute paths: a later service process may run in another folder."""
    stored = request.model_dump(mode="json", exclude_unset=True, exclude=set(request.model_extra or ()))
    for name in ("train_path", "val_path", "save_path", "weight_path"):
        if stored.get(name):
            stored[name] = str(Path(stored[name]).absolute())
    return stored


def _check_task_id(task_id: str | None) -> list[FieldProblem]:
    if task_id not in RESERVED_TASK_IDS:
        return []
    return [FieldProblem(field="task_id", code="task_id_reserved", message=f"{task_id!r} is a route; choose another")]
