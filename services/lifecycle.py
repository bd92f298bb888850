"""What becomes of tasks that have been accepted, from the queue to their last line, and from one service to the next.

Every change of a status goes through here. Which ones there are is said in `state_machine`; when they come, here.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Histogram
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from models.schemas import (
    AnyRequest,
    ImportRequest,
    LogReading,
    Stage,
    TaskStatus,
    TrainingRequest,
)
from services.base_service import FLUSH_TIMEOUT_S, BaseService
from services.checks import check_allowed, resolve_device, wanted_gpus
from services.deadlines import Deadlines
from services.devices import CPU, FILE, Gpu, is_gpu
from services.errors import InvalidRequest, PathForbidden, ServiceError, StorageUnavailable
from services.executors.base import Detached, Executor, Run
from services.executors.choice import Executors
from services.executors.supervised import not_writable
from services.live_training import LiveTraining
from services.log_context import TASK_ID
from services.log_entry import LogEntry, StatusChange, clean_text
from services.log_handler import TrainingLogHandler
from services.memory import release_free_memory
from services.parsing import LineParser, Memory, check_reading
from services.paths import PathPolicy
from services.provenance import ProvenanceKeeper
from services.requests import NO_GPU, from_stored, from_stored_unchecked, problems_in_words
from services.resource_samples import Running
from services.scheduler import Scheduler
from services.state_machine import (
    FINISHED,
    INTERRUPTED,
    MACHINE_LOST,
    STARTED,
    TIMEOUT,
    USER_STOP,
    WAITING,
    may_follow,
    restarts,
)
from services.storage.database import Database
from services.task_state import IMPORT, TaskState
from trainer.errors import TrainingFailed, TrainingStopped

logger = logging.getLogger(__name__)

ELSEWHERE = (
    "It was running on another machine, or with another STATE_DIR, when the service there was lost. Whether it still "
    "runs cannot be told from here. Resume it once it is known not to."
)
NOTHING_READ = (
    "No metric was read from this log. Where its lines have some, POST /api/v2/parsing/try shows what patterns of your "
    "own (metric_definitions) read from them."
)
INTERRUPTION = "The service ended during this training."
LAST_MESSAGE = "任务结束"
"""Message of every task's last line; deployed clients print it."""

STOP_WRITE_TIMEOUT_S = 2.0
"""How long a stop waits to be stored before the trainer is told of it all the same."""

SHUTDOWN_GRACE_S = 2.5
"""How long running trainings get to reach the end of their batch when the service ends."""

_WAIT_BUCKETS_S = (0.1, 1, 10, 60, 300, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600)


class _OfThisThread(threading.local):
    """The run that a thread was started for. It stays that, when its task has gone on to another one."""

    training: LiveTraining | None = None


class Lifecycle(BaseService):
    """Owns the queue and the running trainings.

    Args:
        database: an open store; tasks in it that had not ended are taken up again by `resume_queue`.
        executors: run the trainers.
        scheduler: decides what runs next; used under this service's lock only.
        gpus: asks for the GPUs of this machine, which may take long: called without the lock.
        paths: where requests may read and write.
        runs_dir: in it, each task that runs gets a folder of the service's own.
        allow_commands: run programs that requests name.

    Attributes:
        when_lost: called once another service has taken the store over: this one can only end.
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
        self._executors = executors
        self._scheduler = scheduler
        self._gpus = gpus
        self._undecided: dict[str, TaskState] = {}
        self._paths = paths
        self._runs_dir = runs_dir.absolute()
        self._allow_commands = allow_commands
        self._trainings: dict[str, LiveTraining] = {}
        self._of_this_thread = _OfThisThread()
        self._deadlines = Deadlines(self._expire)
        self._closing = False
        self._has_taken_up = False
        self._has_lost = False
        self.when_lost: Callable[[], None] = lambda: None
        database.when_lost = self._step_down
        self.queue_waits = Histogram(
            "training_queue_wait_seconds",
            "How long tasks have waited for their device, from when this service put them into the queue",
            buckets=_WAIT_BUCKETS_S,
            registry=None,
        )
        self.provenance = ProvenanceKeeper(
            database, lambda record: self._writer.submit(record, wait_for_space=False), gpus, paths.roots
        )

    @property
    def is_closing(self) -> bool:
        """Nothing more is started."""
        return self._closing

    def running_trainings(self) -> list[Running]:
        """What runs now, but for log files that are read."""
        with self._lock:
            found = []
            for task_id, training in self._trainings.items():
                state = self.tasks.get(task_id)
                if training.thread is None or state is None or state.device == FILE:
                    continue
                thread = None if training.executor.survives_restart else training.thread.native_id
                folder = self._run_dir(task_id, training.attempt)
                found.append(Running(task_id, training, state.device, folder, thread))
        return found

    def resume_queue(self) -> None:
        """Take up what an earlier service process left. Where another one owns the store, follow it instead.

        Queued tasks wait again. What has outlived that process is read on; other trainings begin again, at their
        last checkpoint, as often as they may.
        """
        if self.replica is not None:
            self.replica.start()
        else:
            self._resume_queue()

    def _resume_queue(self) -> None:
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
            self._has_taken_up = True
            self._dispatch()
        if self._database.ownership is not None:
            with suppress(TimeoutError, StorageUnavailable, DBAPIError):  # else the next one looks at each task again
                self._writer.flush(FLUSH_TIMEOUT_S)
                self._database.ownership.settle(self._place)

    def _become_owner(self) -> None:
        """As `resume_queue` at the start of a service, while this one has viewers already."""
        try:
            self._writer.start()
            self._resume_queue()
            self.replica = None
        except Exception:
            logger.critical("The store could not be taken up; this service ends", exc_info=True)
            self._step_down()

    def _step_down(self) -> None:
        """Another service owns the store: write nothing, end nothing that is its business now, and let the process end.

        Trainings in threads of this process stop; they have begun again elsewhere, and every checkpoint of theirs waits
        for lines that cannot be stored.
        """
        with self._lock:
            if self._has_lost:
                return
            self._has_lost = self._closing = True
            trainings = list(self._trainings.values())
            self._trainings.clear()
        logger.critical("Another service has taken the store over. This one writes nothing any more, and steps down.")
        self._writer.refuse(self._database.read_replica)
        self._executors.detach()
        for training in trainings:
            if not training.executor.survives_restart:
                training.stop.set()
        self.when_lost()

    def _take_up(self, state: TaskState) -> None:
        """Queue again what waited; read on, or begin again, what ran. Call with the lock held."""
        task_id, request = state.task_id, from_stored_unchecked(state)
        has_begun = state.status in (TaskStatus.RUNNING, TaskStatus.STOPPING)
        memory = None
        if has_begun and self._executor_of(state).survives_restart:
            position, memory = self.store.read_progress(task_id)
        self._trainings[task_id] = training = self._training(state, request, memory)
        self._limit_time(task_id, since=state.history[-1].at if state.history else None)
        if state.status is TaskStatus.STOPPING:
            training.stop.set()
            training.stop_reason = state.reason or USER_STOP
        if not has_begun:
            self._wait_for_device(state)
        elif training.executor.survives_restart and self._is_elsewhere(state):
            self._note(LogEntry(task_id, "ERROR", ELSEWHERE))
            self._end(task_id, TaskStatus.FAILED, MACHINE_LOST, error=ELSEWHERE)
        elif training.executor.survives_restart:
            training.position, training.is_resumed = position, True
            self._scheduler.adopt(task_id, device=state.device)
            self._start(task_id, state.device)
        else:
            self._interrupt(task_id)

    def _is_elsewhere(self, state: TaskState) -> bool:
        """Whether a process of another machine, or of another STATE_DIR, runs it: it can neither be read nor ended."""
        ownership = self._database.ownership
        if ownership is None or ownership.runs_before in ("", self._place) or state.task_type == IMPORT:
            return False
        if self._trainings[state.task_id].executor.place == "cluster":
            return False  # every service may ask for it
        if self.provenance.is_missing(state.task_id, state.attempt):
            return False  # what it is made from is recorded before a process begins
        return not self._run_dir(state.task_id, state.attempt).exists()

    @property
    def _place(self) -> str:
        """Where this service's processes are."""
        return f"{socket.gethostname()}:{self._runs_dir.resolve()}"

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
        self._undecided.pop(task_id, None)
        gpus = self._scheduler.look() if is_gpu(state.device) else None
        if gpus is None and is_gpu(state.device) and not isinstance(request, ImportRequest):
            self._undecided[task_id] = state  # it was accepted for a GPU: nothing else is chosen on a guess
            device = wanted_gpus(request)
            self._scheduler.add(task_id, priority=state.priority, created_at=state.created_at, device=device)
            return
        device, problem = resolve_device(request, lambda: gpus or ())
        if problem:
            self._end(task_id, TaskStatus.FAILED, problem[0].code, error=f"device: {problem[0].message}")
            return
        if device == CPU and state.device != CPU:
            self._note(LogEntry(task_id, "WARNING", NO_GPU))
        self._scheduler.add(task_id, priority=state.priority, created_at=state.created_at, device=device)

    def _training(self, state: TaskState, request: AnyRequest, memory: Memory | None = None) -> LiveTraining:
        readable = LogReading() if check_reading(request) else request  # an older release let another one in
        parser = LineParser(readable.metric_definitions, readable.log_format, memory)
        handler = TrainingLogHandler(state.task_id, self, parser, state.warnings, attempt=state.attempt)
        return LiveTraining(
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

    def _ask_to_stop(self, task_id: str, reason: str, message: str, level: str = "INFO") -> None:
        """Decide that a running training stops. Call with the lock held, and `_stop_when_stored` without it."""
        self._trainings[task_id].stop_reason = reason
        self._change(task_id, TaskStatus.STOPPING, message, reason=reason, level=level)

    def _stop_when_stored(self, task_id: str, training: LiveTraining) -> None:
        """Tell the trainer, once the next service would know why it ends. A store that refuses is not waited for."""
        if not self.storage_degraded:
            with suppress(TimeoutError, StorageUnavailable):
                self._writer.flush(STOP_WRITE_TIMEOUT_S)
        training.stop.set()
        self._writer.make_room(task_id)

    def _expire(self, task_id: str) -> None:
        """End a task that waits, or runs, for longer than it may."""
        with self._lock:
            training = self._trainings.get(task_id)
            if training is None or self._closing or not self._deadlines.is_due(task_id):
                return
            if training.status is TaskStatus.RUNNING:
                self._ask_to_stop(task_id, TIMEOUT, f"{training.overstay} It is stopped.", "WARNING")
            else:
                self._end(task_id, TaskStatus.FAILED, TIMEOUT, error=training.overstay)
                self._dispatch()
        self._stop_when_stored(task_id, training)

    def flush_log(self, task_id: str) -> None:
        """As in `BaseService`; in the thread of a training, a store that refuses is waited for until it is to stop.

        Raises:
            TrainingStopped: it is, or its run is over, and its lines are not all stored: no checkpoint may say that
                they are.
            Detached: the same of one that survives this service.
        """
        own = self._of_this_thread.training
        if own is None or own.handler.task_id != task_id:
            super().flush_log(task_id)
            return
        is_over = Detached if own.executor.survives_restart else TrainingStopped
        while True:
            is_last_try = own.stop.is_set()
            try:
                super().flush_log(task_id)
            except TimeoutError:
                if is_last_try:
                    raise TrainingStopped from None
            except ServiceError:  # the service has ended, or lost its store
                raise is_over from None
            else:
                break
        with self._lock:
            if self._trainings.get(task_id) is not own:  # its last lines were those of no run
                raise is_over

    def interrupt(self) -> dict[str, LiveTraining]:
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
        TASK_ID.set(task_id)
        training = self._of_this_thread.training = self._trainings[task_id]
        trainer_logger = logging.Logger(f"training.{task_id}", logging.DEBUG)
        trainer_logger.addHandler(training.handler)
        status, reason, error = TaskStatus.FAILED, "error", None
        was_stopped = False
        try:
            if not training.is_resumed:  # what the request names may lead elsewhere by now
                check_allowed(training.request, self._paths, allow_commands=self._allow_commands)
            self.provenance.begin(
                task_id,
                training.request,
                device,
                attempt=training.attempt,
                is_resumed=training.is_resumed,
                place=training.executor.place,
                is_cancelled=lambda: training.stop.is_set() or self._closing,
            )
            if not training.is_resumed:
                self.flush_log(task_id)  # the next service must know of whatever is running
            run = self._run(task_id, training, device)
            training.executor.run(run, trainer_logger, lambda: self._is_to_stop(training))
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
        try:
            training.handler.finish()
        except ServiceError:
            pass  # the task has ended, or the service has
        except Exception:  # its warnings are not worth a task that never ends
            logger.exception("The end of the log of task %s could not be read", task_id)
        if status is TaskStatus.COMPLETED and isinstance(training.request, ImportRequest):
            self._warn_of_nothing_read(task_id)
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

    def _warn_of_nothing_read(self, task_id: str) -> None:
        with suppress(TimeoutError, ServiceError):
            self._writer.flush(FLUSH_TIMEOUT_S)
            state = self.get_task(task_id)
            if not state.latest_metrics:
                self.add_log(task_id, "WARNING", NOTHING_READ, warns=True)

    def _is_to_stop(self, training: LiveTraining) -> bool:
        """A process may be another service's by now: it is ended only by the owner of the store."""
        is_ours = not training.executor.survives_restart or self._database.is_surely_owner
        return training.stop.is_set() and is_ours

    def _run_dir(self, task_id: str, attempt: int) -> Path:
        return self._runs_dir / task_id / (f"attempt-{attempt}" if attempt > 1 else "")

    def _run(self, task_id: str, training: LiveTraining, device: str) -> Run:
        """Raises: TrainingFailed: the task's folder cannot be made."""
        run_dir = self._run_dir(task_id, training.attempt)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_writable(error) from error
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
        """Start whatever can run now; tell the rest that they wait. Call with the lock held.

        Nothing starts before all that ran under an earlier service counts: its place would look free.
        """
        if self._closing or not self._has_taken_up:
            return
        self._decide()
        while runnable := self._scheduler.next_runnable(self._undecided):
            task_id, device = runnable
            what = "Reading starts" if device == FILE else f"Training starts on {device}"
            self._change(task_id, TaskStatus.RUNNING, what, reason=STARTED, device=device)
            self.queue_waits.observe(time.monotonic() - self._trainings[task_id].waits_since)
            self._start(task_id, device)
        for task_id, training in self._trainings.items():
            if training.status is TaskStatus.PENDING:
                self._change(task_id, TaskStatus.QUEUED, "Waiting for a free device", reason=WAITING)

    def _decide(self) -> None:
        """Give tasks their devices that had to wait until the driver answers, if it has. Call with the lock held."""
        if not self._undecided or self._scheduler.look() is None:
            return
        for task_id, state in list(self._undecided.items()):
            del self._undecided[task_id]
            waiting = self._scheduler.find(task_id)
            if waiting is not None:  # else it has ended
                self._scheduler.discard(task_id)
                self._wait_for_device(replace(state, priority=waiting.priority))

    def dispatch_again(self) -> None:
        """What waits may run now, though no task has come or gone: the driver of the GPUs has answered."""
        with self._lock:
            self._dispatch()

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
        limit = self._trainings[task_id].time_limit
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
            self._end(task_id, TaskStatus.FAILED, TIMEOUT, error=training.overstay)
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
