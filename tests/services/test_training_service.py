"""Trainings from the request to the last line, with a trainer that does what the test says."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app_refactored import build_service
from models.schemas import Stage, TaskStatus, TrainingRequest, wire
from services.base_service import BaseService
from services.devices import Gpu
from services.errors import InvalidRequest, PathForbidden, StorageUnavailable, StoreInUse, TaskConflict, TaskNotFound
from services.executors.base import Run
from services.storage.writer import Writer
from services.task_state import TaskState
from services.training_service import LAST_MESSAGE, RESERVED_TASK_IDS, TrainingLogHandler, TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.builders import task_state, turn
from tests.services.following import Frame, follow, messages, says, wait_for, wait_for_end
from tests.services.refusing import locked
from trainer.errors import TrainingFailed, TrainingStopped

TIMEOUT_S = 30
DOCUMENTED_KEYS = {
    "task_id",
    "task_type",
    "status",
    "progress",
    "device",
    "current_epoch",
    "total_epochs",
    "latest_metrics",
    "created_at",
    "updated_at",
}
START = Callable[..., TaskState]
SHOULD_STOP = Callable[[], bool]


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """The GPUs of this machine: none, until a test adds some."""
    present: list[Gpu] = []
    monkeypatch.setattr("app_refactored.list_gpus", lambda: present)
    return present


@pytest.fixture
def start(service: TrainingService, body: dict[str, Any]) -> START:
    """`start(**changes)` asks for a training that is right in every field but those."""

    def ask(**changes: Any) -> TaskState:
        return service.start_training(TrainingRequest(**{**body, **changes}))

    return ask


def history(service: BaseService, task_id: str) -> list[str]:
    return [entry["message"] for entry in service.get_logs(task_id)]


def rows(service: TrainingService) -> list[str]:
    return [state.task_id for _, state in service.list_tasks()]


def log_record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("trainer", level, __file__, 1, message, args, None)


class TestLogHandler:
    @pytest.fixture
    def live(self, base: BaseService) -> BaseService:
        base.create_log_queue("t", task_state(status=TaskStatus.RUNNING))
        return base

    @pytest.fixture
    def handler(self, live: BaseService) -> TrainingLogHandler:
        return TrainingLogHandler("t", live)

    def test_a_record_is_a_line_with_what_it_says(self, live: BaseService, handler: TrainingLogHandler) -> None:
        handler.emit(log_record("Epoch [%d/%d] started", 3, 10))
        handler.emit(log_record("Train Loss: 0.5234, Train Accuracy: 82.45%", level=logging.WARNING))
        first, second = live.get_logs("t")
        assert {**first, "timestamp": ""} == {
            "timestamp": "",
            "level": "INFO",
            "message": "Epoch [3/10] started",
            "metrics": {"epoch": 3, "total_epochs": 10},
            "stage": "epoch_start",
        }
        assert {**second, "timestamp": ""} == {
            "timestamp": "",
            "level": "WARNING",
            "message": "Train Loss: 0.5234, Train Accuracy: 82.45%",
            "metrics": {"epoch": 3, "total_epochs": 10, "train_loss": 0.5234, "train_acc": 82.45},
            "stage": "training",
        }

    def test_a_step_is_told(self, live: BaseService, handler: TrainingLogHandler) -> None:
        handler.emit(log_record("Epoch [1/2], Step [40/180], Train Loss: 0.5"))
        (entry,) = live.get_logs("t")
        assert (entry["step"], entry["metrics"]["total_steps"]) == (40, 180)

    def test_a_record_of_several_lines_is_several_entries(self, live: BaseService, handler: TrainingLogHandler) -> None:
        handler.emit(log_record("Epoch [1/2] finished\nValidation Loss: 0.6\n  and so on"))
        entries = live.get_logs("t")
        assert [entry["message"] for entry in entries] == [
            "Epoch [1/2] finished",
            "Validation Loss: 0.6",
            "  and so on",
        ]
        assert [entry["stage"] for entry in entries] == ["epoch_end", "validation", "validation"]

    def test_an_exception_comes_with_its_traceback(self, live: BaseService, handler: TrainingLogHandler) -> None:
        logger = logging.Logger("trainer")
        logger.addHandler(handler)
        try:
            raise LookupError("no such image")
        except LookupError:
            logger.exception("Could not read")
        found = history(live, "t")
        assert found[0] == "Could not read"
        assert found[1] == "Traceback (most recent call last):"
        assert found[-1] == "LookupError: no such image"
        assert {entry["level"] for entry in live.get_logs("t")} == {"ERROR"}

    def test_metrics_reach_the_status(self, live: BaseService, handler: TrainingLogHandler) -> None:
        handler.emit(log_record("Epoch [3/10], Train Loss: nan"))
        handler.emit(log_record("Validation Accuracy: 78.92%"))
        live.get_logs("t")
        state = live.get_task("t")
        assert state.latest_metrics == {"epoch": 3, "total_epochs": 10, "train_loss": None, "val_acc": 78.92}
        assert (state.current_epoch, state.total_epochs, state.progress) == (3, 10, 30)

    def test_a_record_that_cannot_be_formatted_never_hurts_the_trainer(
        self, live: BaseService, handler: TrainingLogHandler, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no text")

        handler.emit(log_record("%d images", "three"))
        handler.emit(log_record("%s", Broken()))
        handler.emit(log_record("fine"))
        assert history(live, "t") == ["fine"]
        assert "three" in capsys.readouterr().err

    def test_a_service_that_breaks_never_hurts_the_trainer(
        self,
        live: BaseService,
        handler: TrainingLogHandler,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def broken(*_args: object, **_keywords: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(live, "add_log", broken)
        handler.emit(log_record("a line"))
        assert "ZeroDivisionError" in capsys.readouterr().err

    def test_what_is_said_after_the_end_belongs_to_no_task(
        self, live: BaseService, handler: TrainingLogHandler, capsys: pytest.CaptureFixture[str]
    ) -> None:
        live.log_queues["t"].put(turn(TaskStatus.COMPLETED))
        handler.emit(log_record("late"))
        assert history(live, "t") == ["now completed"]
        live.close()
        handler.emit(log_record("later still"))
        assert capsys.readouterr().err == ""

    def test_two_handlers_remember_apart(self, live: BaseService, handler: TrainingLogHandler) -> None:
        live.create_log_queue("other", task_state("other", status=TaskStatus.RUNNING))
        other = TrainingLogHandler("other", live)
        handler.emit(log_record("Epoch [3/10] started"))
        other.emit(log_record("Train Loss: 0.5"))
        (entry,) = live.get_logs("other")
        assert entry["metrics"] == {"train_loss": 0.5}


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
        assert (state.status, state.reason, state.error) == (TaskStatus.COMPLETED, None, None)
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
        assert set(logging.Logger.manager.loggerDict) == registered
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
        assert (state.status, state.reason, state.progress) == (TaskStatus.COMPLETED, None, 100)

    def test_a_task_that_has_ended_cannot_be_stopped(self, service: TrainingService, start: START) -> None:
        task_id = start().task_id
        wait_for_end(service, task_id)
        with pytest.raises(TaskConflict, match="has ended") as refused:
            service.stop_training(task_id)
        assert (refused.value.status_code, refused.value.code) == (409, "task_ended")

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


class TestRequests:
    def refused(self, service: TrainingService, start: START, body: dict[str, Any], **changes: Any) -> InvalidRequest:
        """The refusal of such a request, which has left nothing behind."""
        before = rows(service)
        with pytest.raises(InvalidRequest) as refused:
            start(**changes)
        assert rows(service) == before
        assert not Path(body["save_path"]).exists()
        return refused.value

    def test_unknown_fields_are_ignored_with_a_warning(
        self, service: TrainingService, start: START, executor: ScriptedExecutor
    ) -> None:
        state = start(optimiser="adam", zoom=3)
        expected = ("Unknown field 'optimiser' was ignored.", "Unknown field 'zoom' was ignored.")
        assert state.warnings == expected
        assert wire(state.to_response())["warnings"] == list(expected)
        assert state.request.keys().isdisjoint({"optimiser", "zoom"})
        wait_for_end(service, state.task_id)
        warnings = [entry["message"] for entry in service.get_logs(state.task_id) if entry["level"] == "WARNING"]
        assert warnings == list(expected)

    def test_cuda_without_a_gpu_is_the_cpu_with_a_warning_line(self, service: TrainingService, start: START) -> None:
        state = start(device="cuda")
        assert state.device == "cpu"
        wait_for_end(service, state.task_id)
        warnings = [entry["message"] for entry in service.get_logs(state.task_id) if entry["level"] == "WARNING"]
        assert warnings == ["No CUDA GPU on this machine: training on the CPU."]
        assert wire(state.to_response()).keys() == DOCUMENTED_KEYS

    def test_the_cpu_that_was_asked_for_is_no_warning(self, service: TrainingService, start: START) -> None:
        task_id = start(device="cpu").task_id
        wait_for_end(service, task_id)
        assert {entry["level"] for entry in service.get_logs(task_id)} == {"INFO"}

    def test_a_gpu_that_is_not_there_is_refused(
        self, service: TrainingService, start: START, body: dict[str, Any], gpus: list[Gpu]
    ) -> None:
        gpus.append(Gpu("cuda:0", 0))
        refusal = self.refused(service, start, body, device="cuda:7")
        assert [(problem.field, problem.code) for problem in refusal.errors] == [("device", "device_not_found")]
        assert "cpu, cuda:0" in refusal.detail

    def test_every_problem_is_named_at_once(self, service: TrainingService, start: START, body: dict[str, Any]) -> None:
        refusal = self.refused(
            service, start, body, model="resnet19", task_id="start", device="cuda:99", train_path="/not/there"
        )
        assert {problem.field for problem in refusal.errors} >= {"model", "task_id", "device", "train_path"}

    @pytest.mark.parametrize("task_id", sorted(RESERVED_TASK_IDS))
    def test_a_word_that_is_a_route_is_no_task_id(
        self, service: TrainingService, start: START, body: dict[str, Any], task_id: str
    ) -> None:
        refusal = self.refused(service, start, body, task_id=task_id)
        assert [(problem.field, problem.code) for problem in refusal.errors] == [("task_id", "task_id_reserved")]

    def test_a_task_id_is_used_once(self, service: TrainingService, start: START, tmp_path: Path) -> None:
        start(task_id="mine", save_path=str(tmp_path / "one"))
        for _round in ("live", "ended"):
            with pytest.raises(TaskConflict) as refused:
                start(task_id="mine", save_path=str(tmp_path / "two"))
            assert refused.value.code == "task_id_in_use"
            assert not (tmp_path / "two").exists()
            wait_for_end(service, "mine")
        assert rows(service) == ["mine"]

    def test_a_name_is_used_once_in_a_folder(
        self, service: TrainingService, start: START, body: dict[str, Any], tmp_path: Path
    ) -> None:
        first = start(name="first").task_id
        wait_for_end(service, first)
        best = Path(body["save_path"], "first", "best.pt")
        best.write_text("precious")
        with pytest.raises(TaskConflict) as refused:
            start(name="first")
        assert refused.value.code == "name_in_use"
        assert rows(service) == [first]
        assert best.read_text() == "precious"
        elsewhere = start(name="first", save_path=str(tmp_path / "elsewhere")).task_id
        assert wait_for_end(service, elsewhere).status is TaskStatus.COMPLETED

    def test_of_many_that_want_one_task_id_exactly_one_gets_it(
        self, service: TrainingService, start: START, tmp_path: Path
    ) -> None:
        outcomes: list[str] = []
        barrier = threading.Barrier(6)

        def ask(number: int) -> None:
            barrier.wait()
            try:
                start(task_id="mine", save_path=str(tmp_path / f"runs-{number}"))
            except TaskConflict as error:
                outcomes.append(error.code)
            else:
                outcomes.append("won")

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert sorted(outcomes) == ["task_id_in_use"] * 5 + ["won"]
        assert len(list(tmp_path.glob("runs-*/mine"))) == 1
        wait_for_end(service, "mine")

    @pytest.mark.parametrize(
        ("field", "setting"),
        [
            ("train_path", "DATA_ROOTS"),
            ("val_path", "DATA_ROOTS"),
            ("weight_path", "DATA_ROOTS"),
            ("save_path", "SAVE_ROOTS"),
        ],
    )
    def test_paths_outside_the_roots_are_refused_before_anything_is_read(
        self,
        settings: Settings,
        executor: ScriptedExecutor,
        body: dict[str, Any],
        image_folders: Path,
        tmp_path: Path,
        field: str,
        setting: str,
    ) -> None:
        roots = {"data_roots": (image_folders,), "save_roots": (tmp_path / "runs",)}
        with closing(build_service(settings.model_copy(update=roots), executor)) as service:
            wait_for_end(service, service.start_training(TrainingRequest(**body)).task_id)
            outside = tmp_path / "outside"
            with pytest.raises(PathForbidden, match=rf"^{field}: .*{setting}"):
                service.start_training(TrainingRequest(**{**body, field: str(outside)}))
            assert not outside.exists()
            assert len(rows(service)) == 1

    def test_a_store_that_does_not_answer_leaves_neither_folder_nor_task(
        self,
        monkeypatch: pytest.MonkeyPatch,
        settings: Settings,
        executor: ScriptedExecutor,
        body: dict[str, Any],
    ) -> None:
        monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.02)
        monkeypatch.setattr("services.base_service.WRITE_TIMEOUT_S", 0.1)
        with closing(build_service(settings, executor)) as service:
            early = service.start_training(TrainingRequest(**body)).task_id
            wait_for_end(service, early)
            with locked(settings.state_dir / "training.db"):
                with pytest.raises(StorageUnavailable, match="did not take the task in time"):
                    service.start_training(TrainingRequest(**{**body, "task_id": "late"}))
                assert not Path(body["save_path"], "late").exists()
                with pytest.raises(StorageUnavailable, match="The store refuses writes") as refused:
                    service.start_training(TrainingRequest(**{**body, "task_id": "later"}))
                assert refused.value.status_code == 503
            monkeypatch.setattr("services.base_service.WRITE_TIMEOUT_S", TIMEOUT_S)
            for _ in range(2):  # what the first answer sets off is done before the second
                service.get_logs(early)
            state = service.start_training(TrainingRequest(**{**body, "task_id": "late"}))
            assert wait_for_end(service, state.task_id).status is TaskStatus.COMPLETED
            assert rows(service) == ["late", early]
            assert len(executor.started) == 2

    def test_a_service_that_is_closed_takes_no_training(
        self, service: TrainingService, start: START, body: dict[str, Any]
    ) -> None:
        service.close()
        with pytest.raises(StorageUnavailable, match="shutting down"):
            start()
        assert list(Path(body["save_path"]).glob("*")) == []


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


class TestEndOfTheService:
    def test_running_trainings_are_interrupted_and_the_queue_is_kept(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, settings: Settings
    ) -> None:
        executor.hold()
        running = start(task_id="running").task_id
        wait_for(service, running, "Holding")
        for task_id, priority in (("third", 5), ("second", 1)):
            start(task_id=task_id, priority=priority)
        assert service.close()

        later = ScriptedExecutor()
        with closing(build_service(settings, later)) as again:
            state = again.get_task(running)
            assert (state.status, state.reason) == (TaskStatus.FAILED, "interrupted")
            assert state.error == "The service ended during this training."
            assert history(again, running)[-2:] == ["The service ended during this training.", LAST_MESSAGE]
            for task_id in ("third", "second"):
                assert wait_for_end(again, task_id).status is TaskStatus.COMPLETED
            assert [run.request.task_id for run in later.started] == ["second", "third"]
            assert later.started[1].output_dir.is_dir()

    def test_a_service_that_is_told_to_end_starts_nothing_more(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, settings: Settings
    ) -> None:
        executor.hold()
        running = start(task_id="running").task_id
        wait_for(service, running, "Holding")
        start(task_id="waiting")
        service.interrupt()
        state = wait_for_end(service, running)
        assert (state.status, state.reason) == (TaskStatus.FAILED, "interrupted")
        with pytest.raises(StorageUnavailable, match="shutting down"):
            start(task_id="late")
        assert service.close()
        assert len(executor.started) == 1

        later = ScriptedExecutor()
        with closing(build_service(settings, later)) as again:
            assert wait_for_end(again, "waiting").status is TaskStatus.COMPLETED
            assert rows(again) == ["waiting", running]

    def test_a_training_that_its_user_had_stopped_is_cancelled(
        self,
        service: TrainingService,
        start: START,
        executor: ScriptedExecutor,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("services.training_service.SHUTDOWN_GRACE_S", 0.05)
        free = threading.Event()

        def deaf(_run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            logger.info("in a batch")
            free.wait(TIMEOUT_S)

        executor.script = deaf
        task_id = start().task_id
        wait_for(service, task_id, "in a batch")
        service.stop_training(task_id)
        assert service.close()
        free.set()
        with closing(build_service(settings, ScriptedExecutor())) as again:
            state = again.get_task(task_id)
            assert (state.status, state.reason) == (TaskStatus.CANCELLED, "user_stop")

    def test_a_training_that_completes_in_its_grace_is_completed(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, settings: Settings
    ) -> None:
        def trainer(_run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            logger.info("in the last batch")
            while not should_stop():
                threading.Event().wait(0.001)

        executor.script = trainer
        task_id = start().task_id
        wait_for(service, task_id, "in the last batch")
        assert service.close()
        with closing(build_service(settings, ScriptedExecutor())) as again:
            assert again.get_task(task_id).status is TaskStatus.COMPLETED

    def test_a_training_that_does_not_stop_is_recorded_all_the_same(
        self,
        service: TrainingService,
        start: START,
        executor: ScriptedExecutor,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("services.training_service.SHUTDOWN_GRACE_S", 0.05)
        free = threading.Event()
        threads: list[threading.Thread] = []

        def deaf(_run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
            threads.append(threading.current_thread())
            logger.info("deaf")
            free.wait(TIMEOUT_S)
            logger.info("Train Loss: 0.1")

        executor.script = deaf
        task_id = start().task_id
        wait_for(service, task_id, "deaf")
        start(task_id="waiting")
        assert service.close()
        with closing(build_service(settings, ScriptedExecutor())) as again:
            free.set()
            threads[0].join(TIMEOUT_S)
            wait_for_end(again, "waiting")
            state = again.get_task(task_id)
            assert (state.status, state.reason) == (TaskStatus.FAILED, "interrupted")
            assert history(again, task_id)[-1] == LAST_MESSAGE
            assert "Train Loss: 0.1" not in history(again, task_id)
        assert len(executor.started) == 1

    def waiting(self, service: TrainingService, start: START, executor: ScriptedExecutor, **changes: Any) -> str:
        """A task that waits when the service ends."""
        executor.hold()
        wait_for(service, start(device=changes.get("device", "cpu")).task_id, "Holding")
        state = start(task_id="waiting", **changes)
        assert state.status is TaskStatus.QUEUED
        assert service.close()
        return state.task_id

    def test_a_waiting_task_runs_on_the_cpu_where_the_gpus_are_gone(
        self,
        service: TrainingService,
        start: START,
        executor: ScriptedExecutor,
        settings: Settings,
        gpus: list[Gpu],
    ) -> None:
        gpus.append(Gpu("cuda:0", 0))
        task_id = self.waiting(service, start, executor, device="cuda")
        gpus.clear()
        with closing(build_service(settings, ScriptedExecutor())) as again:
            state = wait_for_end(again, task_id)
            assert (state.status, state.device) == (TaskStatus.COMPLETED, "cpu")
            warnings = [entry["message"] for entry in again.get_logs(task_id) if entry["level"] == "WARNING"]
            assert warnings == ["No CUDA GPU on this machine: training on the CPU."]

    def test_a_waiting_task_fails_where_the_gpu_it_asked_for_is_gone(
        self,
        service: TrainingService,
        start: START,
        executor: ScriptedExecutor,
        settings: Settings,
        gpus: list[Gpu],
    ) -> None:
        gpus += [Gpu("cuda:0", 0), Gpu("cuda:1", 0)]
        task_id = self.waiting(service, start, executor, device="cuda:1")
        gpus.pop()
        with closing(build_service(settings, ScriptedExecutor())) as again:
            state = wait_for_end(again, task_id)
            assert (state.status, state.reason) == (TaskStatus.FAILED, "device_not_found")
            assert "there is no cuda:1" in str(state.error)

    def test_a_waiting_task_whose_paths_are_not_allowed_any_more_fails(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, settings: Settings, tmp_path: Path
    ) -> None:
        task_id = self.waiting(service, start, executor)
        stricter = settings.model_copy(update={"save_roots": (tmp_path / "elsewhere",)})
        with closing(build_service(stricter, ScriptedExecutor())) as again:
            state = wait_for_end(again, task_id)
            assert state.status is TaskStatus.FAILED
            assert "SAVE_ROOTS" in str(state.error)

    def test_a_waiting_task_that_an_older_release_took_differently_fails(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, settings: Settings
    ) -> None:
        task_id = self.waiting(service, start, executor)
        with sqlite3.connect(settings.state_dir / "training.db") as connection:
            connection.execute("UPDATE tasks SET request = json_set(request, '$.num_epochs', 'many')")
        connection.close()
        with closing(build_service(settings, ScriptedExecutor())) as again:
            state = wait_for_end(again, task_id)
            assert (state.status, state.reason) == (TaskStatus.FAILED, "invalid_request")
            assert "num_epochs" in str(state.error)

    def test_relative_paths_mean_what_they_meant_when_they_were_sent(
        self,
        service: TrainingService,
        start: START,
        executor: ScriptedExecutor,
        settings: Settings,
        body: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(Path(body["train_path"]).parent)
        task_id = self.waiting(service, start, executor, train_path="train", val_path="val")
        monkeypatch.chdir(tmp_path)
        later = ScriptedExecutor()
        with closing(build_service(settings, later)) as again:
            wait_for_end(again, task_id)
        (run,) = later.started
        assert (run.request.train_path, run.request.val_path) == (body["train_path"], body["val_path"])

    def test_viewers_see_the_end(self, service: TrainingService, start: START, executor: ScriptedExecutor) -> None:
        executor.hold()
        task_id = start().task_id

        async def watch() -> list[Frame]:
            viewer = asyncio.create_task(follow(service, task_id))
            await follow(service, task_id, until=says("Holding"))
            await asyncio.to_thread(service.close)
            return await viewer

        frames = asyncio.run(watch())
        assert frames[-1].entry["status"] == "failed"
        assert frames[-1].entry["reason"] == "interrupted"

    def test_ended_tasks_answer_the_next_service_as_they_answered_the_last(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, settings: Settings
    ) -> None:
        task_id = start(
            task_id="over", name="first", description="a try", priority=3, optimiser="adam", num_epochs=3
        ).task_id
        state = wait_for_end(service, task_id)
        entries, frames = service.get_logs(task_id), asyncio.run(follow(service, task_id))
        assert service.close()
        with closing(build_service(settings, ScriptedExecutor())) as again:
            assert again.get_task(task_id) == state
            assert wire(again.get_task(task_id).to_response()) == wire(state.to_response())
            assert again.get_logs(task_id) == entries
            assert asyncio.run(follow(again, task_id)) == frames
            assert dict(again.tasks) == {}


CRASHING_SERVICE = """
import asyncio, json, sys
from pathlib import Path
from app_refactored import build_service
from models.schemas import TrainingRequest
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import follow

def flood(run, logger, should_stop):
    for number in range(1, 100_000):
        logger.info("Epoch [%d/100000], Train Loss: %f", number, 1 / number)

body = json.loads(sys.argv[2])
executor = ScriptedExecutor()
executor.script = flood
service = build_service(Settings(state_dir=Path(sys.argv[1])), executor)
service.start_training(TrainingRequest(**body, task_id="running"))
service.start_training(TrainingRequest(**body, task_id="waiting"))

def tell(frame):
    print(json.dumps(frame), flush=True)
    return False

asyncio.run(follow(service, "running", until=tell))
"""


def test_what_a_viewer_has_seen_survives_kill_9(settings: Settings, body: dict[str, Any]) -> None:
    command = [sys.executable, "-c", CRASHING_SERVICE, str(settings.state_dir), json.dumps(body)]
    seen: list[Frame] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as crashing:
        assert crashing.stdout is not None
        for line in crashing.stdout:
            seen.append(Frame(*json.loads(line)))
            if len(seen) == 300:
                with pytest.raises(StoreInUse):
                    build_service(settings, ScriptedExecutor())
                crashing.kill()
                break
    executor = ScriptedExecutor()
    with closing(build_service(settings, executor)) as again:
        assert wait_for_end(again, "waiting").status is TaskStatus.COMPLETED
        state = again.get_task("running")
        assert (state.status, state.reason) == (TaskStatus.FAILED, "interrupted")
        stored = asyncio.run(follow(again, "running"))
        assert stored[:300] == seen
        assert [frame.id for frame in stored] == list(range(1, len(stored) + 1))
        assert messages(stored)[-2:] == ["The service ended during this training.", LAST_MESSAGE]
        last_epoch = max(frame.entry["metrics"]["epoch"] for frame in stored if "metrics" in frame.entry)
        assert state.latest_metrics["epoch"] == last_epoch
        assert [run.request.task_id for run in executor.started] == ["waiting"]
