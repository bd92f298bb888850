"""Trainings from their start to their last line, with a trainer that does what the test says."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import sys
import threading
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app_refactored import build_service
from models.schemas import Stage, TaskStatus, TrainingRequest, wire
from services.devices import Gpu
from services.errors import StorageUnavailable, TaskConflict, TaskNotFound
from services.executors.base import Run
from services.log_queue import LogQueue
from services.storage.writer import Writer
from services.task_state import TaskState
from services.training_service import LAST_MESSAGE, TrainingLogHandler, TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import Frame, follow, messages, wait_for, wait_for_end
from tests.services.refusing import locked
from tests.services.trainings import DOCUMENTED_KEYS, SHOULD_STOP, START, TIMEOUT_S, history
from trainer.errors import TrainingFailed, TrainingStopped


class TestTraining:
    def test_a_training_goes_from_its_acceptance_to_its_last_line(self, service: TrainingService, start: START) -> None:
        task_id = start(num_epochs=2).task_id
        state = wait_for_end(service, task_id)
        assert history(service, task_id) == [
            "Task accepted: resnet18, 2 epochs on cpu",
            "Training starts on cpu",
            *(
                line.format(epoch=epoch)
                for epoch in (1, 2)
                for line in (
                    "Epoch [{epoch}/2] started",
                    "Train Loss: 0.5234, Train Accuracy: 82.45%",
                    "Validation Loss: 0.6123, Validation Accuracy: 78.92%",
                    "Validation macro_F1: 0.7654",
                    "Learning Rate: 0.0001",
                )
            ),
            "Training complete.",
            "任务结束",
        ]
        assert (state.status, state.reason, state.error) == (TaskStatus.COMPLETED, "finished", None)
        assert (state.progress, state.current_epoch, state.total_epochs) == (100, 2, 2)
        assert state.latest_metrics == {
            "epoch": 2,
            "total_epochs": 2,
            "train_loss": 0.5234,
            "train_acc": 82.45,
            "val_loss": 0.6123,
            "val_acc": 78.92,
            "macro_f1": 0.7654,
            "learning_rate": 0.0001,
        }

    def test_every_line_has_a_stage_and_the_last_one_the_status(self, service: TrainingService, start: START) -> None:
        task_id = start().task_id
        frames = asyncio.run(follow(service, task_id))
        assert {frame.entry["stage"] for frame in frames} <= {stage.value for stage in Stage}
        assert frames[-1].entry["stage"] == "completed"
        assert [frame.entry.get("status") for frame in frames] == [None] * (len(frames) - 1) + ["completed"]
        assert [frame.id for frame in frames] == list(range(1, len(frames) + 1))

    def test_a_plain_request_is_answered_with_the_documented_keys(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        executor.hold()
        answer = wire(start(num_epochs=7).to_response())
        assert answer.keys() == DOCUMENTED_KEYS
        assert answer["status"] == "running"
        assert (answer["progress"], answer["current_epoch"], answer["total_epochs"]) == (0, 0, 7)

    def test_the_trainer_gets_what_was_asked_for(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, body: dict[str, Any]
    ) -> None:
        task_id = start(batch_size=3, name="first").task_id
        wait_for_end(service, task_id)
        (run,) = executor.started
        assert run.request == TrainingRequest(**{**body, "batch_size": 3, "name": "first"})
        assert run.output_dir == Path(body["save_path"], "first")
        assert run.output_dir.is_dir()
        assert run.device == "cpu"

    def test_without_a_name_the_folder_is_called_by_the_id(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, body: dict[str, Any]
    ) -> None:
        task_id = start(task_id="my-own").task_id
        assert task_id == "my-own"
        wait_for_end(service, task_id)
        assert executor.started[0].output_dir == Path(body["save_path"], "my-own")

    def test_its_logger_is_left_without_a_handler(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        seen: list[logging.Logger] = []

        def trainer(_run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            assert logger.handlers
            seen.append(logger)

        executor.script = trainer
        state = wait_for_end(service, start().task_id)
        assert state.status is TaskStatus.COMPLETED
        assert seen[0].handlers == []

    def test_its_logger_is_in_no_hierarchy(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, caplog: pytest.LogCaptureFixture
    ) -> None:
        registered = set(logging.Logger.manager.loggerDict)
        caplog.set_level(logging.DEBUG)
        state = start(task_id="a")
        wait_for_end(service, state.task_id)
        assert set(logging.Logger.manager.loggerDict) - registered <= set(sys.modules)  # a module's own, on its import
        assert "Train Loss" not in caplog.text

    def test_debug_lines_are_lines_too(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        executor.script = lambda _run, logger, _stop: logger.debug("a detail")
        task_id = start().task_id
        wait_for_end(service, task_id)
        assert "a detail" in history(service, task_id)

    def test_tasks_that_run_at_the_same_time_keep_their_lines_apart(
        self, settings: Settings, executor: ScriptedExecutor, body: dict[str, Any]
    ) -> None:
        together = threading.Barrier(3)

        def trainer(run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            together.wait(TIMEOUT_S)
            assert run.request.task_id is not None
            loss = len(run.request.task_id)
            for epoch in range(1, 51):
                logger.info("Epoch [%d/50] started", epoch)
                logger.info("Train Loss: %d", loss)

        executor.script = trainer
        parallel = settings.model_copy(update={"max_training_concurrent_cpu": 3})
        with closing(build_service(parallel, executor)) as service:
            ids = ("a", "a-b", "a-b-c")
            for task_id in ids:
                service.start_training(TrainingRequest(**{**body, "task_id": task_id}))
            for task_id in ids:
                state = wait_for_end(service, task_id)
                assert state.latest_metrics["train_loss"] == len(task_id)
                said = [line for line in history(service, task_id) if line.startswith(("Epoch", "Train Loss"))]
                assert said == [
                    line
                    for epoch in range(1, 51)
                    for line in (f"Epoch [{epoch}/50] started", f"Train Loss: {len(task_id)}")
                ]


class TestQueue:
    @pytest.fixture
    def busy(self, service: TrainingService, start: START, executor: ScriptedExecutor) -> str:
        """The one place on the CPU is taken by this task."""
        executor.hold()
        task_id = start(task_id="busy").task_id
        wait_for(service, task_id, "Holding")
        return task_id

    def test_a_task_waits_while_its_device_is_busy(self, service: TrainingService, busy: str, start: START) -> None:
        state = start()
        assert state.status is TaskStatus.QUEUED
        assert history(service, state.task_id)[-1] == "Waiting for a free device"
        assert (service.running, service.queued) == (1, 1)

    def test_smaller_priorities_run_first_and_older_tasks_before_younger(
        self, service: TrainingService, busy: str, start: START, executor: ScriptedExecutor
    ) -> None:
        for task_id, priority in (("e", 9), ("c", 5), ("d", 5), ("a", 1), ("b", 1)):
            start(task_id=task_id, priority=priority)
        executor.release()
        for task_id in "abcde":
            wait_for_end(service, task_id)
        assert [run.request.task_id for run in executor.started] == ["busy", "a", "b", "c", "d", "e"]
        assert (service.running, service.queued) == (0, 0)

    def test_never_more_run_than_there_are_places(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        inside: list[Run] = []
        at_once: list[int] = []

        def trainer(run: Run, _logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            inside.append(run)
            at_once.append(len(inside))
            inside.remove(run)

        executor.script = trainer
        for task_id in [start().task_id for _ in range(5)]:
            wait_for_end(service, task_id)
        assert at_once == [1] * 5

    def test_the_place_of_a_training_that_failed_is_free_again(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        def trainer(_run: Run, _logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            raise TrainingFailed("diverged", "The loss is NaN: lower learning_rate.")

        executor.script = trainer
        assert wait_for_end(service, start().task_id).status is TaskStatus.FAILED
        executor.script = lambda _run, logger, _stop: logger.info("fine")
        assert wait_for_end(service, start().task_id).status is TaskStatus.COMPLETED

    def test_a_waiting_task_is_cancelled_at_once_and_never_runs(
        self, service: TrainingService, busy: str, start: START, executor: ScriptedExecutor
    ) -> None:
        waiting, next_one = start().task_id, start().task_id
        assert "before it began" in service.stop_training(waiting)
        state = wait_for_end(service, waiting)
        assert (state.status, state.reason) == (TaskStatus.CANCELLED, "user_stop")
        assert history(service, waiting)[-1] == LAST_MESSAGE
        executor.release()
        wait_for_end(service, next_one)
        assert len(executor.started) == 2

    def test_a_running_task_stops_after_its_batch(self, service: TrainingService, busy: str) -> None:
        frames: list[Frame] = []
        assert "after its current batch" in service.stop_training(busy)
        frames = asyncio.run(follow(service, busy))
        state = service.get_task(busy)
        assert (state.status, state.reason) == (TaskStatus.CANCELLED, "user_stop")
        assert messages(frames)[-2:] == ["Stop requested", LAST_MESSAGE]
        assert frames[-1].entry["status"] == "cancelled"
        assert frames[-1].entry["reason"] == "user_stop"

    def test_a_task_that_is_stopping_says_so_and_cannot_be_stopped_again(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        finish = threading.Event()

        def slow_batch(_run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            logger.info("in a batch")
            finish.wait(TIMEOUT_S)
            if should_stop():
                raise TrainingStopped

        executor.script = slow_batch
        task_id = start().task_id
        wait_for(service, task_id, "in a batch")
        service.stop_training(task_id)
        wait_for(service, task_id, "Stop requested")
        assert service.get_task(task_id).status is TaskStatus.STOPPING
        with pytest.raises(TaskConflict) as refused:
            service.stop_training(task_id)
        assert (refused.value.status_code, refused.value.code) == (409, "task_stopping")
        finish.set()
        assert wait_for_end(service, task_id).status is TaskStatus.CANCELLED

    def test_a_trainer_is_told_to_stop_only_when_the_next_service_would_know_why_it_ended(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        stored: list[TaskStatus] = []

        def trainer(run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            logger.info("in a batch")
            while not should_stop():
                threading.Event().wait(0.0001)
            task = service.store.get_task(run.task_id)
            assert task is not None
            stored.append(task.status)
            raise TrainingStopped

        executor.script = trainer
        task_id = start().task_id
        wait_for(service, task_id, "in a batch")
        service.stop_training(task_id)
        wait_for_end(service, task_id)
        assert stored == [TaskStatus.STOPPING]

    def test_a_stop_is_answered_only_when_it_is_stored(
        self, service: TrainingService, start: START, busy: str, settings: Settings
    ) -> None:
        waiting = start().task_id
        stopping = threading.Thread(target=service.stop_training, args=(waiting,))
        with locked(settings.state_dir / "training.db"):
            stopping.start()
            stopping.join(0.2)
            assert stopping.is_alive()
        stopping.join(TIMEOUT_S)
        state = service.store.get_task(waiting)
        assert state is not None
        assert state.status is TaskStatus.CANCELLED

    def test_a_training_that_ends_before_it_hears_of_the_stop_is_completed(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        finish = threading.Event()

        def last_batch(_run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            logger.info("in the last batch")
            finish.wait(TIMEOUT_S)

        executor.script = last_batch
        task_id = start().task_id
        wait_for(service, task_id, "in the last batch")
        service.stop_training(task_id)
        finish.set()
        state = wait_for_end(service, task_id)
        assert (state.status, state.reason, state.progress) == (TaskStatus.COMPLETED, "finished", 100)

    def test_a_task_that_has_ended_cannot_be_stopped(self, service: TrainingService, start: START) -> None:
        task_id = start().task_id
        wait_for_end(service, task_id)
        with pytest.raises(TaskConflict, match="has ended") as refused:
            service.stop_training(task_id)
        assert (refused.value.status_code, refused.value.code) == (409, "task_ended")

    def test_a_task_that_is_just_being_accepted_is_not_told_to_have_ended(
        self, service: TrainingService, start: START, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused: list[TaskConflict] = []
        enqueue = service._enqueue

        def stop_first(state: TaskState, *rest: Any) -> None:
            with pytest.raises(TaskConflict, match="just being accepted") as caught:
                service.stop_training(state.task_id)
            refused.append(caught.value)
            enqueue(state, *rest)

        monkeypatch.setattr(service, "_enqueue", stop_first)
        wait_for_end(service, start().task_id)
        assert [error.code for error in refused] == ["task_active"]

    def test_a_task_that_nobody_has_started_cannot_be_stopped(self, service: TrainingService) -> None:
        with pytest.raises(TaskNotFound):
            service.stop_training("nobody")

    def test_a_full_queue_of_lines_never_locks_the_service(
        self,
        settings: Settings,
        executor: ScriptedExecutor,
        body: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A flood keeps the writer's queue full while trainings start, stop and fail."""
        monkeypatch.setattr("services.base_service.Writer", partial(Writer, limit=2))
        flooding = threading.Event()

        def trainer(run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            if run.request.task_id == "flood":
                while not should_stop():
                    logger.info("a line")
                    flooding.set()
                raise TrainingStopped
            raise RuntimeError("boom")

        executor.script = trainer
        parallel = settings.model_copy(update={"max_training_concurrent_cpu": 2})
        with closing(build_service(parallel, executor)) as service:
            service.start_training(TrainingRequest(**{**body, "task_id": "flood"}))
            assert flooding.wait(TIMEOUT_S)
            for number in range(5):
                state = service.start_training(TrainingRequest(**{**body, "task_id": f"short-{number}", "extra": 1}))
                assert wait_for_end(service, state.task_id).status is TaskStatus.FAILED
            service.stop_training("flood")
            assert wait_for_end(service, "flood").status is TaskStatus.CANCELLED


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class TestFailures:
    @pytest.mark.parametrize(
        ("failure", "reason", "error"),
        [
            (TrainingFailed("diverged", "The loss is NaN: lower learning_rate."), "diverged", "lower learning_rate"),
            (TrainingFailed("unreadable_image", "Remove caf\udce9.png."), "unreadable_image", r"caf\udce9.png"),
            (ValueError("a bad value"), "error", "ValueError: a bad value"),
            (SystemExit(3), "error", "SystemExit: 3"),
            (KeyboardInterrupt(), "error", "KeyboardInterrupt"),
            (MemoryError(), "error", "MemoryError"),
            (RuntimeError("nul \x00 and \ud800"), "error", r"nul \x00 and \ud800"),
            (Unspeakable(), "error", "Unspeakable"),
        ],
    )
    def test_whatever_a_trainer_raises_ends_its_own_task_only(
        self,
        service: TrainingService,
        start: START,
        executor: ScriptedExecutor,
        failure: BaseException,
        reason: str,
        error: str,
    ) -> None:
        def trainer(_run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            logger.info("Epoch [1/2] started")
            raise failure

        executor.script = trainer
        state = wait_for_end(service, start().task_id)
        assert (state.status, state.reason) == (TaskStatus.FAILED, reason)
        assert state.error is not None
        assert error in state.error
        assert state.progress < 100
        last = service.get_logs(state.task_id)[-1]
        assert (last["message"], last["status"], last["reason"]) == (LAST_MESSAGE, "failed", reason)
        executor.script = lambda _run, logger, _stop: logger.info("fine")
        assert wait_for_end(service, start().task_id).status is TaskStatus.COMPLETED

    def test_a_training_that_gets_no_thread_fails_and_frees_its_place(
        self, service: TrainingService, start: START, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begin = threading.Thread.start

        def refused(thread: threading.Thread) -> None:
            if thread.name.startswith("training-"):
                raise RuntimeError("can't start new thread")
            begin(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            state = start()
        assert state.status is TaskStatus.FAILED
        assert "can't start new thread" in str(state.error)
        assert service.running == 0
        assert wait_for_end(service, start().task_id).status is TaskStatus.COMPLETED

    @pytest.mark.parametrize(
        ("error", "reason"), [(errno.ENOSPC, "disk_full"), (errno.EROFS, "start_failed")], ids=["full", "read-only"]
    )
    def test_a_disk_that_takes_no_folder_of_the_task_is_named(
        self, service: TrainingService, start: START, monkeypatch: pytest.MonkeyPatch, error: int, reason: str
    ) -> None:
        make = Path.mkdir

        def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
            if path.is_relative_to(service._runs_dir) and path.parent == service._runs_dir and path.name == "t":
                raise OSError(error, os.strerror(error), str(path))
            make(path, *args, **kwargs)

        monkeypatch.setattr(Path, "mkdir", refuse)
        state = wait_for_end(service, start(task_id="t").task_id)
        assert (state.status, state.reason) == (TaskStatus.FAILED, reason)

    def test_a_log_whose_end_cannot_be_read_ends_all_the_same(
        self, service: TrainingService, start: START, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_handler: TrainingLogHandler) -> None:
            raise LookupError("no end")

        monkeypatch.setattr(TrainingLogHandler, "finish", fail)
        assert wait_for_end(service, start().task_id).status is TaskStatus.COMPLETED

    def test_the_log_shows_where_an_unexpected_one_came_from(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        def trainer(_run: Run, _logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            raise LookupError("no such image")

        executor.script = trainer
        task_id = start().task_id
        wait_for_end(service, task_id)
        errors = [entry["message"] for entry in service.get_logs(task_id) if entry["level"] == "ERROR"]
        assert "Training failed: LookupError: no such image" in errors
        assert "Traceback (most recent call last):" in errors


class TestGpus:
    def test_cuda_is_the_least_busy_gpu_that_is_free(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, gpus: list[Gpu]
    ) -> None:
        gpus += [Gpu("cuda:0", 900), Gpu("cuda:1", 100)]
        executor.hold()
        states = [start(device="cuda") for _ in range(3)]
        assert [(state.status, state.device) for state in states] == [
            (TaskStatus.RUNNING, "cuda:1"),
            (TaskStatus.RUNNING, "cuda:0"),
            (TaskStatus.QUEUED, "cuda"),
        ]
        assert history(service, states[0].task_id)[:2] == [
            "Task accepted: resnet18, 2 epochs on cuda",
            "Training starts on cuda:1",
        ]

    def test_a_gpu_that_was_asked_for_is_waited_for(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, gpus: list[Gpu]
    ) -> None:
        gpus += [Gpu("cuda:0", 900), Gpu("cuda:1", 100)]
        executor.hold()
        states = [start(device="cuda:0") for _ in range(2)]
        assert [state.status for state in states] == [TaskStatus.RUNNING, TaskStatus.QUEUED]
        executor.release()
        for state in states:
            assert wait_for_end(service, state.task_id).device == "cuda:0"

    def test_trainings_on_several_devices_run_at_the_same_time(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, gpus: list[Gpu]
    ) -> None:
        gpus += [Gpu("cuda:0", 0), Gpu("cuda:1", 0)]
        together = threading.Barrier(3)

        def trainer(_run: Run, _logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            together.wait(TIMEOUT_S)

        executor.script = trainer
        for task_id in [start(device=device).task_id for device in ("cpu", "cuda:0", "cuda:1")]:
            assert wait_for_end(service, task_id).status is TaskStatus.COMPLETED


class TestMetrics:
    def test_latest_metrics_is_a_mapping_of_the_live_tasks(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        executor.hold()
        task_id = start().task_id
        assert dict(service.latest_metrics) == {task_id: {}}
        service.update_task_metrics(task_id, {"epoch": 1, "val_acc": 61.5})
        service.update_task_metrics(task_id, {"val_acc": 62.5, "mAP": 0.5})
        service.get_logs(task_id)
        assert service.latest_metrics[task_id] == {"epoch": 1, "val_acc": 62.5, "mAP": 0.5}
        assert service.get_task(task_id).current_epoch == 1
        assert len(service.latest_metrics) == 1
        executor.release()
        wait_for_end(service, task_id)
        assert dict(service.latest_metrics) == {}
        assert service.latest_metrics[task_id] == {"epoch": 1, "val_acc": 62.5, "mAP": 0.5}
        with pytest.raises(KeyError):
            service.latest_metrics["nobody"]

    def test_metrics_that_code_brings_are_a_line_like_any_other(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        executor.hold()
        task_id = start().task_id
        wait_for(service, task_id, "Holding")
        service.update_task_metrics(task_id, {"val_acc": 61.5, "my_own": 1})
        entry = service.get_logs(task_id)[-1]
        assert entry["message"] == "val_acc: 61.5, my_own: 1"
        assert entry["metrics"] == {"val_acc": 61.5, "my_own": 1}

    def test_a_task_that_nobody_has_started_has_none(self, service: TrainingService) -> None:
        with pytest.raises(TaskNotFound):
            service.update_task_metrics("nobody", {"val_acc": 61.5})


class TestFlush:
    """What a trainer does before it says, by a checkpoint, that an epoch is done."""

    def test_what_was_logged_before_is_stored_when_it_returns(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        stored: list[list[str]] = []

        def train(run: Run, logger: logging.Logger, _should_stop: SHOULD_STOP) -> None:
            logger.info("of the epoch")
            logger.handlers[0].flush()
            stored.append([entry.message for entry in service.store.read_entries(run.task_id)])

        executor.script = train
        wait_for_end(service, start().task_id)
        assert stored[0][-1] == "of the epoch"

    @pytest.mark.parametrize("end", ["close", "lose"])
    def test_no_checkpoint_says_that_an_epoch_is_done_whose_lines_came_after_the_end_of_its_run(
        self,
        settings: Settings,
        executor: ScriptedExecutor,
        body: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        end: str,
    ) -> None:
        """A long validation, or a large `best.pt`, outlasts the time that the end of the service gives it."""
        monkeypatch.setattr("services.lifecycle.SHUTDOWN_GRACE_S", 0.05)
        begun, is_ended = threading.Event(), threading.Event()
        outcome: Future[str] = Future()

        def train(_run: Run, logger: logging.Logger, _should_stop: SHOULD_STOP) -> None:
            begun.set()
            is_ended.wait(TIMEOUT_S)
            logger.info("Validation Loss: 0.5")
            try:
                logger.handlers[0].flush()
            except TrainingStopped:
                outcome.set_result("stopped")
                raise
            outcome.set_result("a checkpoint would now call the epoch done")

        executor.script = train
        with closing(build_service(settings, executor)) as service:
            service.start_training(TrainingRequest(**body))
            assert begun.wait(TIMEOUT_S)
            if end == "close":
                service.close()
            else:
                service._step_down()
            is_ended.set()
            assert outcome.result(TIMEOUT_S) == "stopped"

    def test_a_store_that_refuses_is_waited_for_until_the_task_is_to_stop(
        self, settings: Settings, executor: ScriptedExecutor, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.05)
        monkeypatch.setattr("services.base_service.FLUSH_TIMEOUT_S", 0.05)
        begun, reached, logged, flushed = (threading.Event() for _ in range(4))

        def train(_run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            begun.set()
            reached.wait(TIMEOUT_S)
            logger.info("of the epoch")
            logged.set()
            try:
                logger.handlers[0].flush()
            finally:
                flushed.set()
            assert should_stop()
            pytest.fail("a checkpoint would now call the epoch done")

        executor.script = train
        with closing(build_service(settings, executor)) as service:
            task_id = service.start_training(TrainingRequest(**body)).task_id
            assert begun.wait(TIMEOUT_S)
            with locked(settings.state_dir / "training.db"):
                reached.set()
                assert logged.wait(TIMEOUT_S)
                assert not flushed.wait(0.2), "it waits"
                service.stop_training(task_id)
                assert flushed.wait(TIMEOUT_S)
            assert wait_for_end(service, task_id).status is TaskStatus.CANCELLED
            assert "of the epoch" in history(service, task_id)

    def test_one_that_is_to_stop_stores_its_lines_all_the_same(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        stored: list[str] = []

        def train(run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            logger.info("in a batch")
            while not should_stop():
                threading.Event().wait(0.0001)
            logger.info("of the epoch")
            logger.handlers[0].flush()
            stored.extend(entry.message for entry in service.store.read_entries(run.task_id))
            raise TrainingStopped

        executor.script = train
        task_id = start().task_id
        wait_for(service, task_id, "in a batch")
        service.stop_training(task_id)
        assert wait_for_end(service, task_id).status is TaskStatus.CANCELLED
        assert stored[-1] == "of the epoch"

    def test_a_trainer_begins_when_the_store_knows_that_it_runs(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, settings: Settings
    ) -> None:
        executor.hold()
        wait_for(service, start().task_id, "Holding")
        waiting = start().task_id
        with locked(settings.state_dir / "training.db"):
            executor.release()
            while waiting not in service.resources().devices[0].running:
                threading.Event().wait(0.001)
            threading.Event().wait(0.1)
            assert len(executor.started) == 1, "else a service that is killed now leaves a trainer that nobody stops"
        assert wait_for_end(service, waiting).status is TaskStatus.COMPLETED


class TestDelete:
    """Of a task whose id somebody else wants at the same moment."""

    def test_the_id_is_taken_until_nothing_of_the_task_is_left(
        self, service: TrainingService, start: START, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wait_for_end(service, start(task_id="t").task_id)
        removing, go_on = threading.Event(), threading.Event()
        remove = shutil.rmtree

        def wait(folder: Path, *, ignore_errors: bool) -> None:
            removing.set()
            assert go_on.wait(TIMEOUT_S)
            remove(folder, ignore_errors=ignore_errors)

        monkeypatch.setattr(shutil, "rmtree", wait)
        deleting = threading.Thread(target=service.delete_task, args=("t",))
        deleting.start()
        assert removing.wait(TIMEOUT_S)
        try:
            with pytest.raises(TaskConflict) as refused:
                start(task_id="t", name="another")
            assert refused.value.code == "task_id_in_use"
            with pytest.raises(TaskNotFound):
                service.delete_task("t")
        finally:
            go_on.set()
            deleting.join(TIMEOUT_S)
        assert wait_for_end(service, start(task_id="t", name="another").task_id).status is TaskStatus.COMPLETED

    def test_a_task_that_the_store_has_yet_to_delete_is_not_resumed(
        self,
        service: TrainingService,
        start: START,
        executor: ScriptedExecutor,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("services.training_service.WRITE_TIMEOUT_S", 0.05)

        def fail(_run: Run, _logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            raise TrainingFailed("diverged", "The loss is NaN.")

        executor.script = fail
        wait_for_end(service, start(task_id="t").task_id)
        run_dir = settings.state_dir / "runs" / "t"
        assert run_dir.exists()
        removed, remove = threading.Event(), service._remove_run_dir

        def remove_and_tell(task_id: str) -> None:
            remove(task_id)
            removed.set()

        monkeypatch.setattr(service, "_remove_run_dir", remove_and_tell)
        with locked(settings.state_dir / "training.db"):
            with pytest.raises(TimeoutError):
                service.delete_task("t")
            with pytest.raises(TaskNotFound):
                service.resume_training("t")
            assert run_dir.exists(), "it is still there to be answered"
        with pytest.raises(TaskNotFound):
            service.get_logs("t")
        assert removed.wait(TIMEOUT_S)
        assert not run_dir.exists()

    def test_nothing_of_an_earlier_task_is_there_when_one_of_its_id_is_stored(
        self, service: TrainingService, start: START, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else the next service, should this one be killed then, would take it for what the new task has done."""
        left = settings.state_dir / "runs" / "t" / "exit.json"
        left.parent.mkdir(parents=True)
        left.touch()
        create, was_there = service.create_log_queue, []

        def note(task_id: str, state: TaskState | None = None) -> LogQueue:
            was_there.append(left.exists())
            return create(task_id, state)

        monkeypatch.setattr(service, "create_log_queue", note)
        wait_for_end(service, start(task_id="t").task_id)
        assert was_there == [False]

    def test_a_start_that_the_store_does_not_take_says_so_though_its_folder_is_gone(
        self, service: TrainingService, start: START, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_task_id: str, state: TaskState) -> LogQueue:
            shutil.rmtree(state.output_dir)
            raise TimeoutError

        monkeypatch.setattr(service, "create_log_queue", refuse)
        with pytest.raises(StorageUnavailable):
            start()
