"""A log that is read again: all at once, while its task goes on and others look."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from app_refactored import build_service
from models.schemas import LogReading, MetricDefinition, TaskStatus, TrainingRequest
from services.errors import InvalidRequest, TaskConflict, TaskNotFound
from services.executors.base import Run
from services.log_entry import LogEntry
from services.parsing import LineParser
from services.rereading import Rereading
from services.storage.tables import metric_points
from services.task_state import TaskState, too_many_names
from services.training_service import TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.builders import line, task_state
from tests.services.following import follow, messages, wait_for, wait_for_end
from tests.services.trainings import SHOULD_STOP, START, TIMEOUT_S, history
from trainer.errors import TrainingFailed, TrainingStopped

DICE = LogReading(metric_definitions=[MetricDefinition(name="dice", regex="Dice: ([0-9.]+)")])
NOTHING = LogReading(log_format="none")


def printing(*lines: str) -> Callable[[Run, logging.Logger, SHOULD_STOP], None]:
    def trainer(_run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
        for text in lines:
            logger.info(text)

    return trainer


def points(service: TrainingService, task_id: str) -> list[tuple[Any, ...]]:
    columns = [metric_points.c[name] for name in ("name", "seq", "epoch", "step", "value")]
    query = select(*columns).where(metric_points.c.task_id == task_id).order_by("name", "seq")
    with service._database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def said(service: TrainingService, task_id: str) -> list[dict[str, Any]]:
    """Its lines, without those of its life in the service."""
    of_the_service = ("Task accepted", "Training starts", "Unknown field", "Stop requested", "任务结束")
    return [entry for entry in service.get_logs(task_id) if not entry["message"].startswith(of_the_service)]


def dice_of(service: TrainingService, task_id: str) -> list[float | None]:
    return [entry.get("metrics", {}).get("dice") for entry in said(service, task_id)]


class TestOfAnEndedTask:
    LINES = ("Epoch [1/2] started", "Train Loss: 0.5, Dice: 0.25", "Epoch [2/2] started", "Dice: 0.75")

    @pytest.fixture
    def task_id(self, service: TrainingService, start: START, executor: ScriptedExecutor) -> str:
        executor.script = printing(*self.LINES)
        return wait_for_end(service, start(task_id="t", extra=1).task_id).task_id

    def test_new_patterns_find_what_the_old_ones_did_not(self, service: TrainingService, task_id: str) -> None:
        state = service.reparse(task_id, DICE)
        assert state.latest_metrics == {"epoch": 2, "total_epochs": 2, "train_loss": 0.5, "dice": 0.75}
        assert dice_of(service, task_id) == [None, 0.25, None, 0.75]
        assert [(name, seq, value) for name, seq, _epoch, _step, value in points(service, task_id)] == [
            ("dice", 5, 0.25),
            ("dice", 7, 0.75),
            ("train_loss", 5, 0.5),
        ]
        assert service.get_task(task_id) == state
        frames = asyncio.run(follow(service, task_id))
        assert [frame.entry for frame in frames] == service.get_logs(task_id)
        assert [frame.id for frame in frames] == list(range(1, len(frames) + 1))

    def test_what_is_not_read_any_more_is_gone(self, service: TrainingService, task_id: str) -> None:
        before = service.get_task(task_id)
        state = service.reparse(task_id, NOTHING)
        assert (state.latest_metrics, state.current_epoch, state.total_epochs) == ({}, 0, 2)
        assert (state.status, state.progress) == (TaskStatus.COMPLETED, 100)
        assert points(service, task_id) == []
        assert {entry["stage"] for entry in said(service, task_id)} == {"training"}
        assert (state.last_seq, state.updated_at, state.created_at) == (
            before.last_seq,
            before.updated_at,
            before.created_at,
        )

    def test_and_back_again_everything_is_as_it_was(self, service: TrainingService, task_id: str) -> None:
        before = (service.get_logs(task_id), points(service, task_id), service.get_task(task_id).latest_metrics)
        service.reparse(task_id, NOTHING)
        service.reparse(task_id, LogReading())
        after = (service.get_logs(task_id), points(service, task_id), service.get_task(task_id).latest_metrics)
        assert after == before

    def test_patterns_that_match_nothing_are_told_and_those_of_before_are_not(
        self, service: TrainingService, task_id: str
    ) -> None:
        iou = LogReading(metric_definitions=[MetricDefinition(name="iou", regex="IoU: ([0-9.]+)")])
        unknown = "Unknown field 'extra' was ignored."
        state = service.reparse(task_id, iou)
        assert state.warnings[0] == unknown
        assert len(state.warnings) == 2
        assert state.warnings[1].startswith("Pattern 'iou' has matched none of ")
        assert service.reparse(task_id, DICE).warnings == (unknown,)

    def test_too_many_names_are_told_as_long_as_there_are(
        self, service: TrainingService, task_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unknown = "Unknown field 'extra' was ignored."
        monkeypatch.setattr("services.task_state.MAX_NAMES", 0)
        for _ in range(2):
            state = service.reparse(task_id, LogReading())
            assert state.warnings == (unknown, too_many_names("dice"))
            assert "dice" not in state.latest_metrics
        state = service.reparse(task_id, DICE)
        assert state.warnings == (unknown,)
        assert state.latest_metrics["dice"] == 0.75

    def test_the_reading_is_kept_with_the_request(self, service: TrainingService, task_id: str) -> None:
        state = service.reparse(task_id, DICE)
        assert state.request["metric_definitions"] == [{"name": "dice", "regex": "Dice: ([0-9.]+)"}]
        assert state.request["log_format"] == "auto"
        assert state.request["model"] == "resnet18"
        assert service.store.get_task(task_id) == state

    def test_a_bad_pattern_changes_nothing(self, service: TrainingService, task_id: str) -> None:
        before = service.get_task(task_id)
        with pytest.raises(InvalidRequest):
            service.reparse(task_id, LogReading(metric_definitions=[MetricDefinition(name="x", regex="(")]))
        assert service.get_task(task_id) == before

    def test_of_a_task_that_does_not_exist(self, service: TrainingService) -> None:
        with pytest.raises(TaskNotFound):
            service.reparse("nobody", DICE)


class TestOfARunningTask:
    @pytest.fixture
    def orders(self) -> Iterator[list[str]]:
        """What its trainer is to print next."""
        waiting: list[str] = []
        yield waiting
        waiting.append("end")

    @pytest.fixture
    def task_id(self, service: TrainingService, start: START, executor: ScriptedExecutor, orders: list[str]) -> str:
        def trainer(_run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
            while not orders or orders[0] != "end":
                if should_stop():
                    raise TrainingStopped
                if orders and orders[0] == "cut":
                    orders.clear()
                    raise TrainingFailed("interrupted", "Its machine is gone.")
                if orders:
                    logger.info(orders.pop(0))
                else:
                    time.sleep(0.002)

        executor.script = trainer
        return start(task_id="t").task_id

    def say(self, service: TrainingService, orders: list[str], *lines: str) -> None:
        orders += lines
        wait_for(service, "t", lines[-1])

    def test_its_past_and_its_future_are_read_by_the_new_patterns(
        self, service: TrainingService, task_id: str, orders: list[str]
    ) -> None:
        self.say(service, orders, "Epoch [1/2] started", "Dice: 0.25")
        state = service.reparse(task_id, DICE)
        assert (state.status, state.latest_metrics["dice"]) == (TaskStatus.RUNNING, 0.25)
        self.say(service, orders, "Dice: 0.5")
        assert dice_of(service, task_id) == [None, 0.25, 0.5]
        assert service.get_task(task_id).latest_metrics["dice"] == 0.5
        orders.append("end")
        assert wait_for_end(service, task_id).latest_metrics["dice"] == 0.5

    def test_a_viewer_who_comes_later_sees_the_new_frames_and_one_who_was_there_misses_none(
        self, service: TrainingService, task_id: str, orders: list[str]
    ) -> None:
        self.say(service, orders, "Dice: 0.25", "Dice: 0.5")

        async def watch() -> tuple[list[Any], list[Any]]:
            early = asyncio.create_task(follow(service, task_id))
            await asyncio.sleep(0)
            await asyncio.to_thread(service.reparse, task_id, DICE)
            late = asyncio.create_task(follow(service, task_id))
            orders.append("end")
            return await early, await late

        early, late = asyncio.run(watch())
        assert [frame.id for frame in early] == [frame.id for frame in late] == list(range(1, len(late) + 1))
        assert messages(early) == messages(late)
        assert [frame.entry for frame in late] == service.get_logs(task_id)
        assert any("dice" in frame.entry.get("metrics", {}) for frame in late)

    def test_what_code_has_added_keeps_its_metrics_and_its_stage(
        self, service: TrainingService, task_id: str, orders: list[str]
    ) -> None:
        self.say(service, orders, "Validation Loss: 0.5")
        service.add_log(task_id, "INFO", "Dice: 0.1", {"by_hand": 7}, 3, "epoch_end")
        service.add_log(task_id, "INFO", "Dice: 0.2")
        self.say(service, orders, "Dice: 0.25")
        state = service.reparse(task_id, LogReading(log_format="none", metric_definitions=DICE.metric_definitions))
        first, by_hand, silent, last = said(service, task_id)
        assert ("metrics" in first, first["stage"]) == (False, "training")
        assert (by_hand["metrics"], by_hand["step"], by_hand["stage"]) == ({"by_hand": 7}, 3, "epoch_end")
        assert ("metrics" in silent, silent["stage"]) == (False, "epoch_end")
        assert last["metrics"]["dice"] == 0.25
        assert state.latest_metrics == {"by_hand": 7, "dice": 0.25}

    def test_a_line_that_gave_no_stage_has_that_of_the_line_before(
        self, service: TrainingService, task_id: str, orders: list[str]
    ) -> None:
        self.say(service, orders, "Validation Loss: 0.5")
        service.add_log(task_id, "INFO", "a remark")
        self.say(service, orders, "more")
        assert [entry["stage"] for entry in said(service, task_id)] == ["validation"] * 3
        service.reparse(task_id, NOTHING)
        assert [entry["stage"] for entry in said(service, task_id)] == ["training"] * 3
        assert service.get_task(task_id).stage == "training"

    def test_one_at_a_time(self, service: TrainingService, task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with self.in_the_middle_of_a_reparse(service, task_id, monkeypatch):
            for attempt in (lambda: service.reparse(task_id, NOTHING), lambda: service.delete_task(task_id)):
                with pytest.raises(TaskConflict) as refused:
                    attempt()
                assert refused.value.code == "task_reparsing"
        assert service.reparse(task_id, NOTHING).status is TaskStatus.RUNNING

    def test_a_run_that_begins_meanwhile_is_read_by_the_new_patterns_too(
        self, service: TrainingService, task_id: str, orders: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.say(service, orders, "Dice: 0.25")
        read = service._reparser._read_what_is_stored

        def cut_off(rereading: Rereading) -> None:
            monkeypatch.setattr(service._reparser, "_read_what_is_stored", read)
            orders.append("cut")
            wait_for(service, task_id, "Its machine is gone. It goes on at its last checkpoint.")
            self.say(service, orders, "Dice: 0.5")
            read(rereading)

        monkeypatch.setattr(service._reparser, "_read_what_is_stored", cut_off)
        assert service.reparse(task_id, DICE).attempt == 2
        self.say(service, orders, "Dice: 0.75")
        assert [dice for dice in dice_of(service, task_id) if dice is not None] == [0.25, 0.5, 0.75]

    def test_the_handler_is_asked_for_when_no_other_run_can_begin_any_more(
        self, service: TrainingService, task_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        find = service._handler_of

        def find_while_busy(of: str) -> Any:
            with pytest.raises(TaskConflict):
                service._reparser.refuse_while_busy(of)
            asked.append(of)
            return find(of)

        monkeypatch.setattr(service, "_handler_of", find_while_busy)
        service.reparse(task_id, DICE)
        assert asked == [task_id] * 2  # before and after

    @contextmanager
    def in_the_middle_of_a_reparse(
        self, service: TrainingService, task_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        """The long part of reading with `DICE` is over, and nothing has been replaced yet."""
        reached, go_on = threading.Event(), threading.Event()
        finish = service._reparser._finish

        def wait(rereading: Rereading) -> Any:
            reached.set()
            assert go_on.wait(TIMEOUT_S)
            return finish(rereading)

        monkeypatch.setattr(service._reparser, "_finish", wait)
        thread = threading.Thread(target=service.reparse, args=(task_id, DICE))
        thread.start()
        assert reached.wait(TIMEOUT_S)
        try:
            yield
        finally:
            go_on.set()
            thread.join(TIMEOUT_S)

    def test_lines_that_come_meanwhile_are_read_anew_too_and_readers_see_the_old_until_then(
        self, service: TrainingService, task_id: str, orders: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.say(service, orders, "Dice: 0.25")
        with self.in_the_middle_of_a_reparse(service, task_id, monkeypatch):
            orders += ["Dice: 0.5"]  # its trainer waits with it
            service.add_log(task_id, "WARNING", "nothing read here", {"by_hand": 1})
            logs = service.get_logs(task_id)
            assert not any("dice" in entry.get("metrics", {}) for entry in logs)
            assert "dice" not in service.get_task(task_id).latest_metrics
            service.stop_training(task_id)
        state = wait_for_end(service, task_id)
        assert state.status is TaskStatus.CANCELLED
        assert state.latest_metrics["by_hand"] == 1
        read = [dice for dice in dice_of(service, task_id) if dice is not None]
        assert read in ([0.25], [0.25, 0.5])
        assert state.latest_metrics["dice"] == read[-1]

    def test_the_next_service_reads_by_the_new_patterns(
        self, service: TrainingService, start: START, task_id: str, settings: Settings
    ) -> None:
        waiting = start(task_id="waiting").task_id
        service.reparse(waiting, DICE)
        service.close()
        later = ScriptedExecutor()
        later.script = printing("Dice: 0.25")
        with closing(build_service(settings, later)) as again:
            assert wait_for_end(again, waiting).latest_metrics["dice"] == 0.25


def test_a_flood_is_read_anew_without_a_gap(service: TrainingService, start: START, executor: ScriptedExecutor) -> None:
    """Every line has been read by the one or the other, in the end by the last."""

    def trainer(_run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
        number = 0
        while not should_stop():
            number += 1
            logger.info("Dice: %d", number)
            if number % 50 == 0:
                time.sleep(0.005)

    executor.script = trainer
    task_id = start(task_id="t").task_id
    wait_for(service, task_id, "Dice: 100")
    for reading in (DICE, NOTHING, DICE):
        service.reparse(task_id, reading)
    service.stop_training(task_id)
    state = wait_for_end(service, task_id)
    lines = [entry for entry in service.get_logs(task_id) if entry["message"].startswith("Dice: ")]
    assert [entry["metrics"]["dice"] for entry in lines] == list(range(1, len(lines) + 1))
    assert state.latest_metrics["dice"] == len(lines)
    assert [point[-1] for point in points(service, task_id) if point[0] == "dice"] == list(range(1, len(lines) + 1))


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "Epoch [1/3] started",
                "Epoch [2/3] finished",
                "Train Loss: 0.5, Train Accuracy: 82.45%",
                "Validation Accuracy: 0.5",
                "Dice: 0.25",
                "a remark",
                "Training complete.",
            ]
        ).map(lambda text: line(text, parsed=True)),
        st.builds(
            line,
            st.sampled_from(["Dice: 0.9", "by hand"]),
            metrics=st.none() | st.just({"by_hand": 1, "epoch": 3}),
            stage=st.none() | st.just("validation"),
        ),
    ),
    max_size=30,
)
READINGS = st.sampled_from([DICE, NOTHING, LogReading()])


def as_read(reading: LogReading, lines: list[LogEntry]) -> tuple[TaskState, list[LogEntry]]:
    """A log as the service would have it that had always read it so."""
    parser = LineParser(reading.metric_definitions, reading.log_format)
    added = []
    for each in lines:
        if each.parsed:
            parsed = parser.parse(each.message)
            each = line(
                each.message,
                metrics=parsed.metrics or None,
                step=parsed.step,
                stage=parsed.stage,
                percents=parsed.percents,
                parsed=True,
                timestamp=each.timestamp,
            )
        added.append(each)
    return task_state(total_epochs=3).after(added)


@settings(deadline=None)
@given(LINES, READINGS, READINGS, st.integers(1, 7))
def test_it_is_as_if_the_log_had_always_been_read_so(
    lines: list[LogEntry], first: LogReading, second: LogReading, page: int
) -> None:
    """Unless somebody gave a line the very stage that the line before it had: then it follows that line."""
    lines = [each for each in lines if each.parsed or each.stage is None]
    old_state, old_lines = as_read(first, lines)
    new_state, new_lines = as_read(second, lines)
    rereading = Rereading(task_state(total_epochs=3), second, keep=1000)
    for start in range(0, len(old_lines), page):
        rereading.read(old_lines[start : start + page])
    state = rereading.applied_to(old_state)
    assert list(rereading.last) == new_lines
    for name in ("latest_metrics", "current_epoch", "total_epochs", "progress", "stage", "percents", "last_seq"):
        assert getattr(state, name) == getattr(new_state, name), name
    differing = [new.seq for old, new in zip(old_lines, new_lines, strict=True) if old != new]
    assert [changed[-1] for changed in rereading.changed] == differing


def test_while_many_lines_are_read_anew_others_get_their_answers_and_their_lines(
    service: TrainingService, start: START, executor: ScriptedExecutor
) -> None:
    """How long a hundred thousand take, `benchmarks/reparse.py` tells."""
    count = 20_000
    executor.script = printing(*(f"batch {number} Dice: 0.{number}" for number in range(count)))
    task_id = start(task_id="long").task_id
    wait_for_end(service, task_id)
    executor.hold()
    other = start(task_id="other").task_id
    done = threading.Event()
    looks: list[float | None] = []

    def look() -> None:
        while not done.wait(0.02):
            service.add_log(other, "INFO", "a line")
            metrics = [entry.metrics for entry in service.store.read_entries(task_id, after=count, limit=1)]
            seen = service.get_task(task_id).latest_metrics.get("dice")
            assert metrics
            assert seen in (None, float(f"0.{count - 1}"))
            looks.append(seen)

    looking = threading.Thread(target=look)
    looking.start()
    state = service.reparse(task_id, DICE)
    done.set()
    looking.join(TIMEOUT_S)
    assert state.latest_metrics["dice"] == float(f"0.{count - 1}")
    assert len(points(service, task_id)) == count
    assert looks
    executor.release()
    assert history(service, other)[-1]


def test_the_trainer_prints_on_while_the_long_part_is_read(
    service: TrainingService, executor: ScriptedExecutor, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is left at the end is read with its line held up."""
    passes: list[int] = []
    read = service._reparser._read_what_is_stored

    def note(rereading: Rereading) -> None:
        read(rereading)
        passes.append(rereading.seq)
        service.add_log("t", "INFO", "meanwhile")
        service._writer.flush(TIMEOUT_S)

    executor.hold()
    service.start_training(TrainingRequest(**body, task_id="t"))
    wait_for(service, "t", "Holding")
    monkeypatch.setattr(service._reparser, "_read_what_is_stored", note)
    service.reparse("t", DICE)
    first = passes[0]
    assert passes == [first, first + 1, first + 2]
    service._writer.flush(TIMEOUT_S)
    assert len(service.get_logs("t")) == first + 3
