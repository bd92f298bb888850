"""The whole service against a few lines of Python that say what it must do.

Whatever order trainings start, speak, stop, fail, end and are resumed in, whoever watches and leaves and comes
back, and however often the service itself ends and begins again: a task's lines are numbered 1, 2, 3, ...; every
viewer sees each of them once; and at any moment the status is what the lines up to `last_seq` say.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import shutil
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from zipfile import ZipFile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app_refactored import build_service
from models.schemas import TrainingRequest
from services.errors import TaskConflict
from services.executors.base import Executor, Run
from services.task_state import TaskState
from services.training_service import TrainingService
from settings import Settings
from tests.services.following import TIMEOUT_S, Frame, read_frames
from tests.services.scratch import scratch_folder
from trainer.checkpoint_file import LAST, write_checkpoint_file
from trainer.errors import TrainingFailed, TrainingStopped

PLACES = 2
"""Trainings at a time."""
EPOCHS = 9
RESTARTS = 2
"""How often a training goes on by itself."""
ENDED = ("completed", "failed", "cancelled")

Order = Callable[[logging.Logger], None]
T = TypeVar("T")


def finish(_logger: logging.Logger) -> None:
    """The order after which a trainer returns."""


def diverge(_logger: logging.Logger) -> None:
    raise TrainingFailed("diverged", "The loss is NaN.")


def crash(_logger: logging.Logger) -> None:
    raise LookupError("no such image")


def write_archive(file: BinaryIO) -> None:
    content = BytesIO()
    with ZipFile(content, "w") as archive:
        archive.writestr("epoch", "3")
    file.write(content.getvalue())


class Puppets(Executor):
    """Trainers that do what they are told, one order at a time."""

    def __init__(self) -> None:
        self._orders: dict[str, queue.Queue[Order]] = {}
        self._done: dict[str, queue.Queue[None]] = {}

    def expect(self, task_id: str) -> None:
        self._orders[task_id] = queue.Queue()
        self._done[task_id] = queue.Queue()

    def tell(self, task_id: str, order: Order) -> None:
        """Returns when the order has been carried out."""
        self._orders[task_id].put(order)
        self._done[task_id].get(timeout=TIMEOUT_S)

    def run(self, run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        assert run.request.task_id is not None
        order: Order | None = None
        while order is not finish:
            if should_stop():
                raise TrainingStopped
            try:
                order = self._orders[run.request.task_id].get(timeout=0.002)
            except queue.Empty:
                continue
            try:
                order(logger)
            finally:
                self._done[run.request.task_id].put(None)


class EventLoop:
    """An event loop on a thread of its own, where the viewers live."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self._thread.start()
        assert self._started.wait(TIMEOUT_S)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._started.set()
        await self._end.wait()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(TIMEOUT_S)


class Viewer:
    """Follows a task from a line on, and asks for its status with every piece of the stream that comes."""

    def __init__(self, loop: EventLoop, service: TrainingService, task_id: str, after: int) -> None:
        self.after = after
        self.frames: list[Frame] = []
        self.states: list[TaskState] = []
        self._watching = loop.begin(self._watch(service, task_id))

    async def _watch(self, service: TrainingService, task_id: str) -> None:
        stream = service.stream_logs(task_id, self.after)
        try:
            async for chunk in stream:
                new = read_frames(chunk)
                state = service.get_task(task_id)
                assert state.last_seq >= new[-1].id, "a line was shown before the status knew it"
                self.frames += new
                self.states.append(state)
        finally:
            await stream.aclose()

    def see_the_end(self) -> None:
        self._watching.result(TIMEOUT_S)

    def leave(self) -> None:
        self._watching.cancel()

    def check(self, history: list[Frame], *, to_the_end: bool) -> None:
        if self._watching.done() and not self._watching.cancelled():
            self._watching.result()
        seen, due = list(self.frames), history[self.after :]
        assert seen == (due if to_the_end else due[: len(seen)])
        for state in list(self.states):
            assert claims(state) == what_lines_say(history[: state.last_seq])


@dataclass
class Task:
    """What the model knows of a task."""

    task_id: str
    status: str = "queued"
    attempt: int = 1
    restarts: int = 0
    said: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    """Its trainer's lines, and the metrics that each must have."""
    epoch: dict[str, float] = field(default_factory=dict)
    """The epoch that its log is in: lines with metrics belong to it."""
    viewers: list[Viewer] = field(default_factory=list)
    visits: list[Frame] = field(default_factory=list)
    """What a viewer who comes and goes has seen so far."""

    def hear(self, text: str, metrics: dict[str, float]) -> None:
        if "epoch" in metrics:
            self.epoch = metrics
        self.said.append((text, {**self.epoch, **metrics} if metrics else {}))

    def begin_again(self) -> None:
        self.status, self.epoch = "queued", {}
        self.attempt += 1


def claims(state: TaskState) -> dict[str, Any]:
    """What a status says that its log must say too."""
    return {
        "metrics": dict(state.latest_metrics),
        "epoch": state.current_epoch,
        "progress": state.progress,
        "stage": state.stage,
        "ended": state.status.value if state.status.is_terminal else None,
        "reason": state.reason if state.status.is_terminal and state.reason != "finished" else None,
        "attempt": state.attempt,
    }


def what_lines_say(history: list[Frame]) -> dict[str, Any]:
    """The same, read from the lines: a second opinion, written without a look at the first."""
    metrics: dict[str, Any] = {}
    progress = 0
    for _, entry in history:
        if "metrics" not in entry:
            continue
        epoch_before = metrics.get("epoch", 0)
        metrics |= entry["metrics"]
        if "epoch" in metrics:
            epoch_is_over = entry["stage"] in {"validation", "epoch_end"}
            epochs_done = metrics["epoch"] if epoch_is_over else metrics["epoch"] - 1
            done = min(99, 100 * epochs_done // EPOCHS)
            goes_back = "attempt" in entry and metrics["epoch"] < epoch_before
            progress = done if goes_back else max(progress, done)
    last = history[-1].entry if history else {"stage": "training"}
    return {
        "metrics": metrics,
        "epoch": metrics.get("epoch", 0),
        "progress": 100 if last.get("status") == "completed" else progress,
        "stage": last["stage"],
        "ended": last.get("status"),
        "reason": last.get("reason"),
        "attempt": last.get("attempt", 1),
    }


def without_end(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in {"status", "reason"}}


EPOCH = st.integers(1, EPOCHS)
NUMBER = st.integers(1, 9999).map(lambda number: number / 100)
LINES = st.one_of(
    EPOCH.map(lambda epoch: (f"Epoch [{epoch}/{EPOCHS}] started", {"epoch": epoch, "total_epochs": EPOCHS})),
    EPOCH.map(lambda epoch: (f"Epoch [{epoch}/{EPOCHS}] finished", {"epoch": epoch, "total_epochs": EPOCHS})),
    NUMBER.map(lambda number: (f"Train Loss: {number}", {"train_loss": number})),
    NUMBER.map(lambda number: (f"Validation Accuracy: {number}%", {"val_acc": number})),
    NUMBER.map(lambda number: (f"New best model saved with Accuracy: {number}%", {"best_acc": number})),
    NUMBER.map(lambda number: (f"{number} images were skipped", {})),
    st.just(("data: {}", {})),
)
"""Lines of the native formats, each with its meaning written beside it by hand."""


class ServiceMachine(RuleBasedStateMachine):
    request: dict[str, Any]
    """A request that is right in every field; set by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = scratch_folder("machine-")
        self.settings = Settings(state_dir=self.folder, max_training_concurrent_cpu=PLACES)
        self.loop = EventLoop()
        self.tasks: dict[str, Task] = {}
        self.touched: set[str] = set()
        self.open()

    def open(self) -> None:
        self.puppets = Puppets()
        for task_id in self.tasks:
            self.puppets.expect(task_id)
        self.service = build_service(self.settings, self.puppets)

    def teardown(self) -> None:
        try:
            self.restart()
            self.everything_agrees()
        finally:
            self.service.close()
            self.loop.stop()
            shutil.rmtree(self.folder)

    def having(self, *statuses: str) -> list[Task]:
        return [task for task in self.tasks.values() if task.status in statuses]

    def draw_task(self, data: st.DataObject, *statuses: str) -> Task:
        task = data.draw(st.sampled_from(self.having(*statuses) if statuses else list(self.tasks.values())))
        self.touched.add(task.task_id)
        return task

    def fill_places(self) -> None:
        """The model's queue: whoever has waited longest gets a free place."""
        for task in self.having("queued")[: PLACES - len(self.having("running"))]:
            task.status = "running"
            self.touched.add(task.task_id)

    def expect_end(self, task: Task, status: str) -> None:
        """A viewer who joins now sees the end, and so do all who have watched so far."""
        task.viewers.append(Viewer(self.loop, self.service, task.task_id, 0))
        for viewer in task.viewers:
            viewer.see_the_end()
        task.status = status
        self.fill_places()

    @precondition(lambda self: len(self.tasks) < 8)
    @rule()
    def start(self) -> None:
        task = Task(f"task-{len(self.tasks) + 1}")
        self.puppets.expect(task.task_id)
        save_path = str(self.folder / "saved")
        self.service.start_training(
            TrainingRequest(
                **{**self.request, "task_id": task.task_id, "save_path": save_path, "max_restarts": RESTARTS}
            )
        )
        self.tasks[task.task_id] = task
        self.touched.add(task.task_id)
        self.fill_places()

    @precondition(lambda self: self.having("running"))
    @rule(data=st.data(), lines=st.lists(LINES, min_size=1, max_size=6))
    def speak(self, data: st.DataObject, lines: list[tuple[str, dict[str, float]]]) -> None:
        task = self.draw_task(data, "running")

        def say(logger: logging.Logger) -> None:
            for text, _ in lines:
                logger.info(text)

        self.puppets.tell(task.task_id, say)
        for line in lines:
            task.hear(*line)

    @precondition(lambda self: self.having("running"))
    @rule(data=st.data(), how=st.sampled_from([(finish, "completed"), (diverge, "failed"), (crash, "failed")]))
    def end(self, data: st.DataObject, how: tuple[Order, str]) -> None:
        order, status = how
        task = self.draw_task(data, "running")
        self.puppets.tell(task.task_id, order)
        self.expect_end(task, status)

    @precondition(lambda self: self.having("running", "queued"))
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        task = self.draw_task(data, "running", "queued")
        self.service.stop_training(task.task_id)
        self.expect_end(task, "cancelled")

    @precondition(lambda self: self.having("failed", "cancelled"))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """The last line of the run before is no end any more, for whoever reads it from now on."""
        task = self.draw_task(data, "failed", "cancelled")
        self.puppets.expect(task.task_id)
        write_checkpoint_file(Path(self.service.get_task(task.task_id).output_dir) / LAST, write_archive)
        self.service.resume_training(task.task_id)
        task.viewers.clear()
        task.visits = [Frame(number, without_end(entry)) for number, entry in task.visits]
        task.restarts = 0
        task.begin_again()
        self.fill_places()

    @precondition(lambda self: self.having("queued", "running", "completed"))
    @rule(data=st.data())
    def resume_in_vain(self, data: st.DataObject) -> None:
        task = self.draw_task(data, "queued", "running", "completed")
        with pytest.raises(TaskConflict):
            self.service.resume_training(task.task_id)

    @precondition(lambda self: self.having(*ENDED))
    @rule(data=st.data())
    def disturb(self, data: st.DataObject) -> None:
        """Nothing moves a task that has ended."""
        task = self.draw_task(data, *ENDED)
        with pytest.raises(TaskConflict):
            self.service.stop_training(task.task_id)
        with pytest.raises(TaskConflict):
            self.service.add_log(task.task_id, "INFO", "late")
        with pytest.raises(TaskConflict):
            self.service.start_training(TrainingRequest(**{**self.request, "task_id": task.task_id}))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        """A viewer comes, with some of the lines or none, and stays."""
        task = self.draw_task(data)
        after = data.draw(st.integers(0, self.service.get_task(task.task_id).last_seq))
        task.viewers.append(Viewer(self.loop, self.service, task.task_id, after))
        if task.status in ENDED:
            task.viewers[-1].see_the_end()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), count=st.integers(1, 10))
    def visit(self, data: st.DataObject, count: int) -> None:
        """A viewer comes back with the last id it has, takes some lines of those there are, and leaves."""
        task = self.draw_task(data)
        after = len(task.visits)
        until = min(after + count, len(self.service.get_logs(task.task_id)))

        async def take() -> list[Frame]:
            frames: list[Frame] = []
            stream = self.service.stream_logs(task.task_id, after)
            while not frames or frames[-1].id < until:
                frames += read_frames(await anext(stream))
            await stream.aclose()
            return frames[: until - after]

        if after < until:
            task.visits += self.loop.begin(take()).result(TIMEOUT_S)

    @rule()
    def restart(self) -> None:
        """The service ends and another begins on the same store: what ran begins again, as often as it may."""
        assert self.service.close()
        for task in self.having("running"):
            task.restarts += 1
            if task.restarts <= RESTARTS:
                task.begin_again()
                continue
            for viewer in task.viewers:
                viewer.see_the_end()
            task.status = "failed"
        for task in self.having("queued"):
            for viewer in task.viewers:
                viewer.leave()
        self.open()
        for task in self.tasks.values():
            self.check(task)
            task.viewers.clear()
        self.fill_places()

    @invariant()
    def everything_agrees(self) -> None:
        while self.touched:
            self.check(self.tasks[self.touched.pop()])

    def check(self, task: Task) -> None:
        history = [Frame(number, entry) for number, entry in enumerate(self.service.get_logs(task.task_id), start=1)]
        state = self.service.get_task(task.task_id)
        assert state.last_seq == len(history)
        assert claims(state) == what_lines_say(history)
        texts = {text for text, _ in task.said}
        heard = [(entry["message"], entry.get("metrics", {})) for _, entry in history if entry["message"] in texts]
        assert heard == task.said
        assert task.visits == history[: len(task.visits)]
        for viewer in task.viewers:
            viewer.check(history, to_the_end=task.status in ENDED)


def test_the_service_does_what_its_model_says(body: dict[str, Any]) -> None:
    ServiceMachine.request = body
    run_state_machine_as_test(
        ServiceMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
