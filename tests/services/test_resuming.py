"""Tasks that begin again, because somebody asks for it or the service has ended too early."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from app_refactored import build_service
from models.schemas import AnyRequest, CommandRequest, ImportRequest, TaskStatus, TrainingRequest
from services.errors import InvalidRequest, PathForbidden, TaskConflict, TaskNotFound
from services.executors.base import Run
from services.state_machine import RESUMED
from services.training_service import LAST_MESSAGE, TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import TIMEOUT_S, Frame, follow, messages, says, wait_for, wait_for_end
from tests.services.refusing import locked
from tests.services.trainings import SHOULD_STOP, START, history
from trainer.checkpoint_file import BEST, LAST, write_checkpoint_file
from trainer.errors import TrainingFailed


def epochs(first: int, last: int, *, total: int) -> list[str]:
    return [
        line
        for epoch in range(first, last + 1)
        for line in (f"Epoch [{epoch}/{total}] started", f"Train Loss: {epoch}.5, Train Accuracy: 50%")
    ]


class Resuming(ScriptedExecutor):
    """A trainer that is cut short in its fourth epoch of six, and then goes on after the third."""

    def __init__(self) -> None:
        super().__init__()
        self.script = self.train
        self.failure: Exception = TrainingFailed("disk_full", "The disk is full.")

    def train(self, run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
        for line in epochs(1, 4, total=6) if run.attempt == 1 else epochs(4, 6, total=6):
            logger.info(line)
        if run.attempt == 1:
            write_checkpoint_file(run.output_dir / LAST, partial(torch.save, {"epoch": 3}))
            raise self.failure


@pytest.fixture
def executor() -> Resuming:
    return Resuming()


@pytest.fixture
def failed(service: TrainingService, start: START, executor: Resuming) -> str:
    task_id = start(task_id="t", num_epochs=6).task_id
    assert wait_for_end(service, task_id).status is TaskStatus.FAILED
    return task_id


def refusal(service: TrainingService, task_id: str) -> str:
    with pytest.raises(TaskConflict) as caught:
        service.resume_training(task_id)
    return caught.value.code


class TestResume:
    def test_a_failed_training_goes_on_as_the_same_task(self, service: TrainingService, failed: str) -> None:
        before = service.get_logs(failed)
        answer = service.resume_training(failed)
        assert (answer.task_id, answer.attempt, answer.error) == (failed, 2, None)
        state = wait_for_end(service, failed)
        assert (state.status, state.reason, state.progress, state.attempt) == (TaskStatus.COMPLETED, "finished", 100, 2)
        assert [(each.status.value, each.reason, each.attempt) for each in state.history[-4:]] == [
            ("failed", "disk_full", 1),
            ("queued", RESUMED, 2),
            ("running", "device_free", 2),
            ("completed", "finished", 2),
        ]
        assert [each.at for each in state.history] == sorted(each.at for each in state.history)
        after = service.get_logs(failed)
        assert after[: len(before) - 1] == before[:-1]
        assert after[len(before) :][0]["message"] == (
            "Resume requested. Attempt 1 ended as failed, disk_full: The disk is full."
        )

    def test_an_epoch_that_is_trained_twice_counts_once(self, service: TrainingService, failed: str) -> None:
        service.resume_training(failed)
        wait_for_end(service, failed)
        latest: dict[int, tuple[int, float]] = {}
        for entry in service.get_logs(failed):
            if "train_loss" in entry.get("metrics", {}):
                epoch, loss = entry["metrics"]["epoch"], entry["metrics"]["train_loss"]
                latest[epoch] = max(latest.get(epoch, (0, 0.0)), (entry.get("attempt", 1), loss))
        assert latest == {epoch: (1 if epoch < 4 else 2, epoch + 0.5) for epoch in range(1, 7)}

    def test_the_attempt_is_stored_with_lines_and_points(
        self, service: TrainingService, failed: str, settings: Settings
    ) -> None:
        service.resume_training(failed)
        wait_for_end(service, failed)
        with closing(service._database.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            rows = cursor.execute(
                "SELECT p.epoch, p.attempt, e.attempt FROM metric_points p JOIN log_entries e "
                "ON e.task_id = p.task_id AND e.seq = p.seq WHERE p.name = 'train_loss' ORDER BY p.seq"
            ).fetchall()
        assert rows == [(n, 1, 1) for n in (1, 2, 3, 4)] + [(n, 2, 2) for n in (4, 5, 6)]

    def test_a_viewer_who_comes_now_reads_over_the_end_of_the_first_run(
        self, service: TrainingService, failed: str
    ) -> None:
        first = asyncio.run(follow(service, failed))
        service.resume_training(failed)
        wait_for_end(service, failed)
        whole = asyncio.run(follow(service, failed))
        assert [frame.id for frame in whole] == list(range(1, len(whole) + 1))
        assert [frame for frame in whole if "status" in frame.entry] == whole[-1:]
        assert messages(whole)[: len(first)] == messages(first)
        rest = asyncio.run(follow(service, failed, after=first[-1].id))
        assert [*first[:-1], whole[len(first) - 1], *rest] == whole

    def test_a_stopped_training_is_resumed_too(
        self, service: TrainingService, start: START, executor: Resuming
    ) -> None:
        executor.hold()
        task_id = start().task_id
        wait_for(service, task_id, "Holding")
        service.stop_training(task_id)
        assert wait_for_end(service, task_id).status is TaskStatus.CANCELLED
        executor.script = executor.train
        service.resume_training(task_id)
        assert wait_for_end(service, task_id).status is TaskStatus.COMPLETED

    def test_one_that_was_stopped_while_it_waited_runs_then(
        self, service: TrainingService, start: START, executor: Resuming
    ) -> None:
        executor.hold()
        wait_for(service, start().task_id, "Holding")
        waiting = start(task_id="waiting").task_id
        service.stop_training(waiting)
        wait_for_end(service, waiting)
        assert service.resume_training(waiting).status is TaskStatus.QUEUED
        executor.release()
        assert wait_for_end(service, waiting).status is TaskStatus.COMPLETED

    def test_a_resumed_task_is_live_again(self, service: TrainingService, failed: str, executor: Resuming) -> None:
        executor.hold()
        service.resume_training(failed)
        wait_for(service, failed, "Holding")
        service.stop_training(failed)
        assert wait_for_end(service, failed).reason == "user_stop"

    def test_progress_goes_on_where_it_was(self, service: TrainingService, failed: str, executor: Resuming) -> None:
        assert service.get_task(failed).progress == 50

        def say(_run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            logger.info("Epoch [3/6] started")
            raise TrainingFailed("error", "again")

        executor.script = say
        service.resume_training(failed)
        assert wait_for_end(service, failed).progress == 33


class TestRefusal:
    def test_what_runs_or_has_completed_is_not_resumed(
        self, service: TrainingService, start: START, executor: Resuming
    ) -> None:
        executor.hold()
        task_id = start().task_id
        assert refusal(service, task_id) == "task_active"
        executor.release()
        wait_for_end(service, task_id)
        assert refusal(service, task_id) == "task_completed"

    def test_commands_and_imports_have_means_of_their_own(
        self, settings: Settings, executor: Resuming, tmp_path: Path
    ) -> None:
        (tmp_path / "log").touch()
        requests: list[AnyRequest] = [
            CommandRequest(command=["true"], working_dir=str(tmp_path), device="cpu"),
            ImportRequest(path=str(tmp_path / "log")),
        ]
        with closing(build_service(settings.model_copy(update={"allow_commands": True}), executor)) as service:
            for request in requests:
                task_id = service.start_training(request).task_id
                wait_for_end(service, task_id)
                assert refusal(service, task_id) == "not_resumable"

    def test_those_that_have_completed_are_told_nothing_of_checkpoints_that_they_have_not(
        self, settings: Settings, executor: Resuming, tmp_path: Path, body: dict[str, Any]
    ) -> None:
        (tmp_path / "log").touch()
        requests: dict[str, AnyRequest] = {
            "with its checkpoint as weight_path": TrainingRequest(**body),
            "Start the command again": CommandRequest(command=["true"], working_dir=str(tmp_path), device="cpu"),
            "import the file again": ImportRequest(path=str(tmp_path / "log")),
        }
        executor.script = lambda *_: None
        with closing(build_service(settings.model_copy(update={"allow_commands": True}), executor)) as service:
            for advice, request in requests.items():
                task_id = service.start_training(request).task_id
                assert wait_for_end(service, task_id).status is TaskStatus.COMPLETED
                with pytest.raises(TaskConflict) as caught:
                    service.resume_training(task_id)
                assert caught.value.code == "task_completed"
                assert [each for each in requests if each in caught.value.detail] == [advice]

    def test_there_must_be_such_a_task(self, service: TrainingService) -> None:
        with pytest.raises(TaskNotFound):
            service.resume_training("none")

    def test_the_folder_with_the_checkpoint_must_be_there(self, service: TrainingService, failed: str) -> None:
        shutil.rmtree(service.get_task(failed).output_dir)
        assert refusal(service, failed) == "checkpoint_missing"

    def test_a_last_checkpoint_that_was_there_must_be_there(self, service: TrainingService, failed: str) -> None:
        (Path(service.get_task(failed).output_dir) / LAST).rename(Path(service.get_task(failed).output_dir) / BEST)
        with pytest.raises(TaskConflict, match=r"last\.pt is gone: .*weights of best\.pt") as caught:
            service.resume_training(failed)
        assert caught.value.code == "checkpoint_missing"

    def test_a_damaged_checkpoint_is_refused_and_says_what_to_do(self, service: TrainingService, failed: str) -> None:
        checkpoint = Path(service.get_task(failed).output_dir) / LAST
        torch.save({"weights": torch.ones(1000)}, checkpoint)
        content = bytearray(checkpoint.read_bytes())
        content[len(content) // 2] ^= 1
        checkpoint.write_bytes(content)
        with pytest.raises(
            TaskConflict, match=r"last\.pt is damaged: .*Put a sound copy in its place, or start a new training"
        ) as caught:
            service.resume_training(failed)
        assert caught.value.code == "checkpoint_damaged"

    def test_data_that_are_gone_are_named(self, service: TrainingService, start: START, image_copy: Path) -> None:
        task_id = start(train_path=str(image_copy / "train"), num_epochs=6).task_id
        wait_for_end(service, task_id)
        shutil.rmtree(image_copy / "train")
        with pytest.raises(InvalidRequest, match="train_path"):
            service.resume_training(task_id)

    def test_paths_that_are_not_allowed_any_more_are_refused(
        self, service: TrainingService, failed: str, settings: Settings, tmp_path: Path
    ) -> None:
        service.close()
        stricter = settings.model_copy(update={"save_roots": (tmp_path / "elsewhere",)})
        with closing(build_service(stricter, ScriptedExecutor())) as again, pytest.raises(PathForbidden):
            again.resume_training(failed)

    def test_a_folder_that_nobody_may_write_to_is_refused(
        self, service: TrainingService, failed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output_dir = Path(service.get_task(failed).output_dir)
        ask = os.access  # root may write anywhere
        monkeypatch.setattr(
            os, "access", lambda path, mode: path != output_dir and ask(path, mode)
        )  # root may anywhere
        with pytest.raises(InvalidRequest, match="cannot be written to") as caught:
            service.resume_training(failed)
        assert [problem.code for problem in caught.value.errors] == ["save_path_unwritable"]
        assert service.get_task(failed).status is TaskStatus.FAILED

    def test_a_task_that_is_being_deleted_is_gone(self, service: TrainingService, failed: str) -> None:
        service._deleting.add(failed)
        with pytest.raises(TaskNotFound):
            service.resume_training(failed)

    def test_one_that_is_being_resumed_is_neither_resumed_again_nor_deleted(
        self, service: TrainingService, failed: str, settings: Settings
    ) -> None:
        with locked(settings.state_dir / "training.db"):
            first = threading.Thread(target=service.resume_training, args=(failed,))
            first.start()
            while failed not in service.tasks:
                first.join(0.001)
            assert refusal(service, failed) == "task_active"
            with pytest.raises(TaskConflict) as caught:
                service.delete_task(failed)
            assert caught.value.code == "task_active"
        first.join(TIMEOUT_S)
        state = wait_for_end(service, failed)
        assert (state.status, state.attempt) == (TaskStatus.COMPLETED, 2)

    def test_a_refused_resume_changes_nothing(self, service: TrainingService, failed: str) -> None:
        before, lines = service.get_task(failed), history(service, failed)
        shutil.rmtree(before.output_dir)
        refusal(service, failed)
        assert (service.get_task(failed), history(service, failed)) == (before, lines)
        assert dict(service.tasks) == {}


class TestInterruption:
    def test_a_training_goes_on_by_itself_at_most_so_often(
        self, service: TrainingService, start: START, settings: Settings, executor: Resuming
    ) -> None:
        executor.hold()
        wait_for(service, start(task_id="t", max_restarts=2).task_id, "Holding")
        service.close()
        for attempt in (2, 3):
            later = ScriptedExecutor()
            later.hold()
            with closing(build_service(settings, later)) as again:
                asyncio.run(follow(again, "t", until=partial(_holds_in, attempt)))
        later = ScriptedExecutor()
        with closing(build_service(settings, later)) as again:
            state = again.get_task("t")
            assert (state.status, state.reason, later.started) == (TaskStatus.FAILED, "interrupted", [])
            assert "max_restarts (2)" in str(state.error)
            assert history(again, "t")[-1] == LAST_MESSAGE
            again.resume_training("t")  # counts from the beginning
            assert wait_for_end(again, "t").status is TaskStatus.COMPLETED

    def test_a_process_that_was_interrupted_goes_on_in_the_same_service(
        self, service: TrainingService, start: START, executor: Resuming
    ) -> None:
        executor.failure = TrainingFailed("interrupted", "The machine was restarted during this training.")
        state = wait_for_end(service, start(num_epochs=6).task_id)
        assert (state.status, state.attempt) == (TaskStatus.COMPLETED, 2)

    def test_a_viewer_goes_on_watching_over_an_interruption(
        self, service: TrainingService, start: START, executor: Resuming
    ) -> None:
        executor.failure = TrainingFailed("interrupted", "The machine was restarted during this training.")
        frames = asyncio.run(follow(service, start(num_epochs=6).task_id))
        assert [frame.entry["message"] for frame in frames if frame.entry.get("attempt") == 2][:1] == [
            "The machine was restarted during this training. It goes on at its last checkpoint."
        ]
        assert frames[-1].entry["status"] == "completed"

    def test_what_a_stray_thread_of_the_run_before_says_belongs_to_no_run(
        self, service: TrainingService, start: START, executor: Resuming
    ) -> None:
        loggers: list[logging.Handler] = []

        def train(run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            loggers.append(logger.handlers[0])
            if run.attempt == 1:
                raise TrainingFailed("interrupted", "The machine was restarted during this training.")
            loggers[0].emit(logging.LogRecord("x", logging.INFO, __file__, 1, "I am a stray", (), None))
            logger.info("second")

        executor.script = train
        task_id = start().task_id
        wait_for_end(service, task_id)
        assert "second" in history(service, task_id)
        assert "I am a stray" not in history(service, task_id)


def _holds_in(attempt: int, frame: Frame) -> bool:
    return bool(says("Holding")(frame) and frame.entry.get("attempt") == attempt)


class TestTimeLimits:
    def test_a_run_that_takes_too_long_is_stopped_and_has_failed(
        self, service: TrainingService, start: START, executor: Resuming
    ) -> None:
        executor.hold()
        state = wait_for_end(service, start(max_runtime_s=0.05).task_id)
        assert (state.status, state.reason) == (TaskStatus.FAILED, "timeout")
        assert state.error == "It has run for longer than max_runtime_s allows (0.05 s)."
        assert [each.status for each in state.history[-2:]] == [TaskStatus.STOPPING, TaskStatus.FAILED]
        assert service.running == 0

    def test_a_task_that_waits_too_long_does_not_begin(
        self, service: TrainingService, start: START, executor: Resuming
    ) -> None:
        executor.hold()
        wait_for(service, start(max_queue_s=1000).task_id, "Holding")
        state = wait_for_end(service, start(task_id="waiting", max_queue_s=0.05).task_id)
        assert (state.status, state.reason) == (TaskStatus.FAILED, "timeout")
        assert state.error == "It has waited for longer than max_queue_s allows (0.05 s)."
        assert [run.task_id for run in executor.started] != ["waiting"]

    def test_the_time_that_passes_while_no_service_runs_counts(
        self, service: TrainingService, start: START, settings: Settings, executor: Resuming
    ) -> None:
        executor.hold()
        wait_for(service, start().task_id, "Holding")
        start(task_id="waiting", max_queue_s=0.3)
        service.close()
        later = ScriptedExecutor()
        later.hold()
        with closing(build_service(settings, later)) as again:
            assert wait_for_end(again, "waiting").reason == "timeout"

    def test_who_has_run_in_time_is_left_alone(self, service: TrainingService, start: START) -> None:
        task_id = start(max_runtime_s=1000, max_queue_s=1000, num_epochs=6).task_id
        assert wait_for_end(service, task_id).reason == "disk_full"
