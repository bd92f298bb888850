"""What clients may ask of trainings: to start, stop and resume one, to read it again, to change the queue."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from models.fields import RESERVED_TASK_IDS
from models.schemas import (
    AnyRequest,
    CommandRequest,
    DeviceUse,
    ImportRequest,
    LogReading,
    ResourcesResponse,
    TaskStatus,
    TrainingRequest,
)
from services.base_service import WRITE_TIMEOUT_S
from services.checks import check_allowed, find_problems, resolve_device, save_path_problems
from services.claims import Claims
from services.devices import Gpu
from services.errors import InvalidRequest, LinesRemoved, StorageUnavailable, TaskConflict, TaskNotFound
from services.executors.choice import Executors
from services.latest_metrics import LatestMetrics
from services.lifecycle import LAST_MESSAGE, Lifecycle
from services.log_entry import LogEntry
from services.log_handler import TrainingLogHandler
from services.parsing import check_reading
from services.paths import PathPolicy, claim_output_dir
from services.reparse import Reparser
from services.requests import describe, doubts, from_stored_unchecked, new_task
from services.resources import check_devices, describe_resources, list_devices
from services.resuming import check_resumable, how_it_ended, refuse_unless_ended_early
from services.scheduler import Scheduler
from services.state_machine import (
    RESUMED,
    USER_STOP,
)
from services.storage.database import Database
from services.storage.operations import SetLimits
from services.task_state import TaskState
from services.unknown_fields import unknown_fields

__all__ = ["LAST_MESSAGE", "RESERVED_TASK_IDS", "LatestMetrics", "TrainingLogHandler", "TrainingService"]


class TrainingService(Lifecycle):
    """Takes requests, and answers what they come to. Its arguments are those of `Lifecycle`."""

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
        super().__init__(
            database,
            executors=executors,
            scheduler=scheduler,
            gpus=gpus,
            paths=paths,
            runs_dir=runs_dir,
            allow_commands=allow_commands,
        )
        self.latest_metrics = LatestMetrics(self)
        self._reparser = Reparser(self.store, self._writer, self.get_task)
        self._claims = Claims(self._runs_dir / ".claims")  # no task has an id like this
        self._deleting: set[str] = set()

    @property
    def running(self) -> int:
        return self._queue().running

    @property
    def queued(self) -> int:
        return self._queue().queued

    def _resume_queue(self) -> None:
        """As in `Lifecycle`; names that nobody got are free again before."""
        self._claims.undo(self.store.has_output_dir)
        super()._resume_queue()

    def _queue(self) -> Scheduler:
        """What waits and runs; in a replica, as its owner has it."""
        if self.replica is None:
            return self._scheduler
        queue = self._scheduler.empty()
        for state in list(self.tasks.values()):
            if state.status in (TaskStatus.RUNNING, TaskStatus.STOPPING):
                queue.adopt(state.task_id, device=state.device)
            else:
                queue.add(state.task_id, priority=state.priority, created_at=state.created_at, device=state.device)
        return queue

    def start_training(self, request: AnyRequest, sent: Mapping[str, Any] | None = None) -> TaskState:
        """Check a request, give it a task, and run it as soon as its device is free.

        Args:
            sent: the body that the request was read from, to be kept as it was; if not given, the request itself is.

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
        request = self._executors.placed(request)
        device = self.check_request(request)
        task_id = request.task_id or str(uuid.uuid4())
        with self._admission(task_id, device):
            return self._accept(request, task_id, device, sent)

    def check_request(self, request: AnyRequest) -> str:
        """The device that a request would get. Whether its id and its name are free shows at the start alone.

        Raises: as `start_training`, for what is wrong with the request itself.
        """
        request = self._executors.placed(request)
        check_allowed(request, self._paths, allow_commands=self._allow_commands)
        device, device_problem = resolve_device(request, self._gpus)
        problems = [
            *device_problem,
            *self._executors.problems(request),
            *find_problems(request, self._paths),
            *save_path_problems(request, self._paths, self._runs_dir),
        ]
        if problems:
            raise InvalidRequest.from_problems(problems)
        return device

    def _accept(self, request: AnyRequest, task_id: str, device: str, sent: Mapping[str, Any] | None) -> TaskState:
        """Make a task of a request that has been checked, and run it as soon as its device is free."""
        if isinstance(request, TrainingRequest):
            with self._claims.noted(task_id, Path(request.save_path).absolute() / (request.name or task_id)):
                output_dir = claim_output_dir(request.save_path, request.name, task_id, self._paths.save_roots)
                return self._store_and_run(request, task_id, device, output_dir, sent)
        return self._store_and_run(request, task_id, device, self._runs_dir / task_id, sent)

    def _store_and_run(
        self, request: AnyRequest, task_id: str, device: str, output_dir: Path, sent: Mapping[str, Any] | None
    ) -> TaskState:
        entry = LogEntry(task_id, "INFO", f"Task accepted: {describe(request, device)}")
        unknown = unknown_fields(request)
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
        self.provenance.accept(task_id, request, sent)
        warnings = doubts(request, device)
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
            self._begin_again(task_id, RESUMED, f"Resume requested. {how_it_ended(state)}")
            self._dispatch()
        with suppress(TimeoutError, StorageUnavailable):
            self._writer.flush(WRITE_TIMEOUT_S)
        return self.get_task(task_id)

    def stop_training(self, task_id: str, *, reason: str = USER_STOP, message: str = "Stop requested") -> str:
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
                self._ask_to_stop(task_id, reason, message)
                answer = _STOP_MESSAGES[type(training.request)]
            elif training is not None:
                if reason != USER_STOP:
                    self._note(LogEntry(task_id, "INFO", message))
                self._end(task_id, TaskStatus.CANCELLED, reason)
                self._dispatch()
                answer = "The task was cancelled before it began."
        if training is None:
            status = self.get_task(task_id).status  # read without the lock, which every stream needs
            if not status.is_terminal:
                raise TaskConflict(f"Task {task_id!r} is just being accepted. Try again.", code="task_active")
            raise TaskConflict(f"Task {task_id!r} has ended ({status.value}).", code="task_ended")
        self._stop_when_stored(task_id, training)
        return answer

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
            TaskConflict: it is being read again already, or old lines of it were removed.
            TimeoutError: the store did not take what was to be stored before.
            StorageUnavailable: the store does not take writes, or cannot be read.
        """
        self._refuse_while_degraded()
        if problems := check_reading(reading):
            raise InvalidRequest.from_problems(problems)
        if self.get_task(task_id).removed_until is not None:
            raise LinesRemoved(task_id)
        self._reparser.reparse(task_id, reading, self._handler_of, WRITE_TIMEOUT_S)
        return self.get_task(task_id)

    def _handler_of(self, task_id: str) -> TrainingLogHandler | None:
        with self._lock:
            training = self._trainings.get(task_id)
        return training.handler if training else None

    def delete_task(self, task_id: str) -> None:
        """As in `BaseService`; the service's own folder for the task goes too. Until then nobody else gets its id."""
        self._reparser.refuse_while_busy(task_id)
        self._refuse_unless_ended(task_id)
        with self._lock:
            if task_id in self._deleting:
                raise TaskNotFound(task_id)
            self._deleting.add(task_id)
        try:
            done = self._submit_delete(task_id)
        except BaseException:
            self._deleting.discard(task_id)
            raise
        try:
            done.result(WRITE_TIMEOUT_S)
        except TimeoutError:  # the store may still delete it: then in a thread of its own, not in the writer's
            done.add_done_callback(lambda _: threading.Thread(target=self._deleted, args=(task_id, done)).start())
            raise
        except BaseException:  # it has refused
            self._deleted(task_id, done)
            raise
        self._deleted(task_id, done)

    def _deleted(self, task_id: str, done: Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._remove_run_dir(task_id)
        self._deleting.discard(task_id)

    def _remove_run_dir(self, task_id: str) -> None:
        run_dir = (self._runs_dir / task_id).resolve()
        if run_dir.parent == self._runs_dir.resolve():
            shutil.rmtree(run_dir, ignore_errors=True)

    def queue_positions(self) -> Mapping[str, int]:
        """For each task that waits its place, 1 is next, among those that compete for the same device."""
        return self._queue().positions()

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
        return self._resources(self._gpus())

    def device_use(self) -> tuple[Sequence[DeviceUse], Sequence[Gpu]]:
        """The same of each device, and what the driver says of the GPUs."""
        gpus = self._gpus()
        return self._resources(gpus).devices, gpus

    def _resources(self, gpus: Sequence[Gpu]) -> ResourcesResponse:
        if self.replica is not None:
            queue = self._queue()
            queue.set_limits(self.store.device_limits())
            return describe_resources(queue, gpus)
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


_STOP_MESSAGES: Mapping[type[AnyRequest], str] = {
    TrainingRequest: "Stop requested: the training ends after its current batch.",
    CommandRequest: "Stop requested: the command is asked to end, and killed if it does not.",
    ImportRequest: "Stop requested: the file is read no further.",
}
