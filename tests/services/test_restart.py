"""The end of the service, and the next one on the same store."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app_refactored import build_service
from models.schemas import TaskStatus, TrainingRequest, wire
from services.devices import Gpu
from services.errors import StorageUnavailable, StoreInUse
from services.executors.base import Detached, Run
from services.task_state import TaskState
from services.training_service import LAST_MESSAGE, TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import Frame, follow, messages, says, wait_for, wait_for_end
from tests.services.trainings import SHOULD_STOP, START, TIMEOUT_S, history, rows
from trainer.errors import TrainingStopped


class TestEndOfTheService:
    def test_running_trainings_go_back_to_the_queue_which_is_kept(
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
            for task_id in ("third", "second", running):
                assert wait_for_end(again, task_id).status is TaskStatus.COMPLETED
            runs = {run.task_id: run for run in later.started}
            assert list(runs) == ["second", running, "third"]
            assert runs["third"].output_dir.is_dir()
            assert {task_id: run.attempt for task_id, run in runs.items()} == {"second": 1, running: 2, "third": 1}
            assert runs[running].output_dir == executor.started[0].output_dir
            assert runs[running].run_dir != executor.started[0].run_dir
            state = again.get_task(running)
            assert [(each.status.value, each.reason, each.attempt) for each in state.history] == [
                ("pending", "accepted", 1),
                ("running", "device_free", 1),
                ("queued", "interrupted", 2),
                ("running", "device_free", 2),
                ("completed", "finished", 2),
            ]
            assert "The service ended during this training. It goes on at its last checkpoint." in history(
                again, running
            )

    def test_a_service_that_is_told_to_end_starts_nothing_more(
        self, service: TrainingService, start: START, executor: ScriptedExecutor, settings: Settings
    ) -> None:
        executor.hold()
        running = start(task_id="running").task_id
        wait_for(service, running, "Holding")
        start(task_id="waiting")
        service.interrupt()
        wait_for(service, running, "The service ended during this training. It goes on at its last checkpoint.")
        assert (service.get_task(running).status, service.get_task(running).reason) == (
            TaskStatus.QUEUED,
            "interrupted",
        )
        with pytest.raises(StorageUnavailable, match="shutting down"):
            start(task_id="late")
        assert service.close()
        assert len(executor.started) == 1

        later = ScriptedExecutor()
        with closing(build_service(settings, later)) as again:
            assert wait_for_end(again, "waiting").status is TaskStatus.COMPLETED
            assert wait_for_end(again, running).status is TaskStatus.COMPLETED
            assert rows(again) == ["waiting", running]

    def test_a_training_that_its_user_had_stopped_is_cancelled(
        self,
        service: TrainingService,
        start: START,
        executor: ScriptedExecutor,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("services.lifecycle.SHUTDOWN_GRACE_S", 0.05)
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
        monkeypatch.setattr("services.lifecycle.SHUTDOWN_GRACE_S", 0.05)
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
            assert wait_for_end(again, task_id).attempt == 2
            assert history(again, task_id)[-1] == LAST_MESSAGE
            assert "Train Loss: 0.1" not in history(again, task_id)
        assert len(executor.started) == 1

    def waiting(self, service: TrainingService, start: START, executor: ScriptedExecutor, **changes: Any) -> str:
        """A task that waits when the service ends."""
        executor.hold()
        wait_for(service, start(device=changes.get("device", "cpu"), max_restarts=0).task_id, "Holding")
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
        assert isinstance(run.request, TrainingRequest)
        assert (run.request.train_path, run.request.val_path) == (body["train_path"], body["val_path"])

    def test_viewers_see_the_end(self, service: TrainingService, start: START, executor: ScriptedExecutor) -> None:
        executor.hold()
        task_id = start(max_restarts=0).task_id

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


class Lives(ScriptedExecutor):
    """Its trainers outlive the service: each has an output, and `run` reads on from `Run.position` until detached."""

    survives_restart = True

    def __init__(self) -> None:
        super().__init__()
        self.output: list[str] = []
        self.ended: set[str] = set()
        self.stopped: list[str] = []
        self._detached = threading.Event()

    def detach(self) -> None:
        self._detached.set()

    def run(self, run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
        self.started.append(run)
        position = run.position
        while run.task_id not in self.ended:
            for text in self.output[position:]:
                position += 1
                if text == "end":
                    return
                logger.info(text, extra={"position": position})
            if should_stop():
                self.stopped.append(run.task_id)
                raise TrainingStopped
            if self._detached.wait(0.002):
                raise Detached

    def next_service(self) -> Lives:
        """The executor of the next service, of the same trainers."""
        later = Lives()
        later.output = self.output
        return later


class TestWhatOutlivesTheService:
    @pytest.fixture
    def lives(self) -> Lives:
        return Lives()

    @pytest.fixture
    def process(self, body: dict[str, Any]) -> TrainingRequest:
        return TrainingRequest(**body, task_id="t", executor="process")

    def test_a_running_task_is_let_go_and_read_on_without_a_gap(
        self, settings: Settings, lives: Lives, process: TrainingRequest
    ) -> None:
        lives.output += ["Epoch [3/10] started", "Train Loss: 0.5"]
        with closing(build_service(settings, lives)) as service:
            service.start_training(process)
            wait_for(service, "t", "Train Loss: 0.5")
            before = service.get_logs("t")
        lives.output += ["Train Loss: 0.4", "Validation Accuracy: 60%"]
        later = lives.next_service()
        with closing(build_service(settings, later)) as again:
            state = again.get_task("t")
            assert (state.status, again.running) == (TaskStatus.RUNNING, 1)
            wait_for(again, "t", "Validation Accuracy: 60%")
            after = again.get_logs("t")
            assert after[: len(before)] == before
            assert [entry["message"] for entry in after[2:]] == lives.output
            assert after[-2]["metrics"] == {"epoch": 3, "total_epochs": 10, "train_loss": 0.4}
            (run,) = later.started
            assert (run.position, run.device, run.task_id) == (2, "cpu", "t")
            assert run.run_dir == lives.started[0].run_dir
            assert run.output_dir == lives.started[0].output_dir
            later.output.append("end")
            assert wait_for_end(again, "t").status is TaskStatus.COMPLETED

    def test_it_keeps_its_place_and_what_waits_goes_on_waiting(
        self, settings: Settings, lives: Lives, process: TrainingRequest
    ) -> None:
        with closing(build_service(settings, lives)) as service:
            service.start_training(process)
            service.start_training(process.model_copy(update={"task_id": "waiting"}))
        later = lives.next_service()
        with closing(build_service(settings, later)) as again:
            assert (again.running, again.queued) == (1, 1)
            later.output.append("end")
            assert wait_for_end(again, "waiting").status is TaskStatus.COMPLETED
            assert [run.task_id for run in later.started] == ["t", "waiting"]

    def test_one_that_ends_at_once_lets_nothing_start_where_another_still_runs(
        self,
        settings: Settings,
        lives: Lives,
        process: TrainingRequest,
        gpus: list[Gpu],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its end comes before the one on the GPU is read on: as if many others were taken up between the two."""

        def ask(service: TrainingService, task_id: str, **changes: Any) -> None:
            service.start_training(process.model_copy(update={"task_id": task_id, **changes}))

        gpus.append(Gpu("cuda:0", 0))
        with closing(build_service(settings, lives)) as service:
            service.set_limits({"cuda:0": 0})
            ask(service, "low", device="cuda:0", priority=9)
            ask(service, "ended")
            ask(service, "high", device="cuda:0", priority=1)
            service.set_limits({"cuda:0": None})
            assert [service.get_task(each).status.value for each in ("low", "high")] == ["queued", "running"]

        adopt = TrainingService.adopt

        def adopt_later(service: TrainingService, state: TaskState) -> None:
            if state.task_id == "high":
                for thread in threading.enumerate():
                    if thread.name == "training-ended":
                        thread.join(TIMEOUT_S)
            adopt(service, state)

        monkeypatch.setattr(TrainingService, "adopt", adopt_later)
        later = lives.next_service()
        later.ended = {"ended"}
        with closing(build_service(settings, later)) as again:
            assert wait_for_end(again, "ended").status is TaskStatus.COMPLETED
            assert [use.running for use in again.resources().devices if use.device == "cuda:0"] == [["high"]]
            assert again.get_task("low").status is TaskStatus.QUEUED

    def test_one_that_is_stopping_is_told_again(
        self, settings: Settings, lives: Lives, process: TrainingRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch, closing(build_service(settings, lives)) as service:
            patch.setattr(lives, "run", partial(deaf_until_detached, lives))
            service.start_training(process)
            wait_for(service, "t", "deaf")
            service.stop_training("t")
        later = lives.next_service()
        with closing(build_service(settings, later)) as again:
            state = wait_for_end(again, "t")
            assert (state.status, state.reason, later.stopped) == (TaskStatus.CANCELLED, "user_stop", ["t"])

    def test_a_trainer_in_a_thread_does_not_live_on_whatever_the_setting_says_now(
        self, settings: Settings, executor: ScriptedExecutor, body: dict[str, Any]
    ) -> None:
        executor.hold()
        with closing(build_service(settings, executor)) as service:
            service.start_training(TrainingRequest(**body, task_id="t"))
        changed = settings.model_copy(update={"executor": "process"})
        later = ScriptedExecutor()
        with closing(build_service(changed, later)) as again:
            wait_for_end(again, "t")
            assert [run.attempt for run in later.started] == [2]

    def test_a_viewer_of_before_goes_on_where_it_was(
        self, settings: Settings, lives: Lives, process: TrainingRequest
    ) -> None:
        lives.output.append("one")
        with closing(build_service(settings, lives)) as service:
            service.start_training(process)
            seen = asyncio.run(follow(service, "t", until=says("one")))
        lives.output += ["two", "end"]
        with closing(build_service(settings, lives.next_service())) as again:
            rest = asyncio.run(follow(again, "t", after=seen[-1].id))
        assert messages(rest) == ["two", LAST_MESSAGE]
        assert [frame.id for frame in seen + rest] == list(range(1, len(seen) + 3))


def deaf_until_detached(lives: Lives, _run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
    logger.info("deaf")
    assert lives._detached.wait(TIMEOUT_S)
    raise Detached


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
        state = wait_for_end(again, "running")
        stored = asyncio.run(follow(again, "running"))
        assert stored[:300] == seen
        assert [frame.id for frame in stored] == list(range(1, len(stored) + 1))
        cut = messages(stored).index("The service ended during this training. It goes on at its last checkpoint.")
        assert {frame.entry.get("attempt") for frame in stored[:cut]} == {None}
        assert {frame.entry.get("attempt") for frame in stored[cut:]} == {2}
        assert (state.status, state.latest_metrics["epoch"]) == (TaskStatus.COMPLETED, 2)
        assert [run.request.task_id for run in executor.started] == ["running", "waiting"]
