"""What becomes of a trainer's log records."""

from __future__ import annotations

import json
import logging

import pytest

from models.schemas import MetricDefinition, TaskStatus
from services.base_service import BaseService
from services.log_entry import LogEntry
from services.parsing import LineParser, Memory
from services.pattern_warnings import FIRST_LINES
from services.training_service import TrainingLogHandler
from tests.services.builders import task_state, turn
from tests.services.trainings import history, log_record


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

    def test_a_line_that_the_parser_fails_on_is_kept_without_metrics(
        self, live: BaseService, handler: TrainingLogHandler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_parser: LineParser, _line: str) -> None:
            raise LookupError("no idea")

        monkeypatch.setattr(LineParser, "parse", fail)
        handler.emit(log_record("Train Loss: 0.5"))
        monkeypatch.undo()
        handler.emit(log_record("Train Loss: 0.25"))
        first, second = live.get_logs("t")
        assert (first["message"], "metrics" in first) == ("Train Loss: 0.5", False)
        assert second["metrics"] == {"train_loss": 0.25}

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


def reading(*patterns: str) -> LineParser:
    """A parser with own patterns, each called by its first word."""
    return LineParser([MetricDefinition(name=each.split(":")[0].lower(), regex=each) for each in patterns])


class TestWhatIsKnownBesidesTheText:
    @pytest.fixture
    def live(self, base: BaseService) -> BaseService:
        base.create_log_queue("t", task_state(status=TaskStatus.RUNNING))
        return base

    def test_lines_of_a_trainer_are_marked_as_read_from_their_text(self, live: BaseService) -> None:
        TrainingLogHandler("t", live).emit(log_record("Train Loss: 0.5"))
        live.add_log("t", "INFO", "val_acc: 61.5", {"val_acc": 61.5})
        live.get_logs("t")
        assert [entry.parsed for entry in live.store.read_entries("t")] == [True, False]

    def test_an_accuracy_with_a_percent_sign_is_percent_however_small(self, live: BaseService) -> None:
        TrainingLogHandler("t", live).emit(log_record("Train Accuracy: 0.82%"))
        live.get_logs("t")
        assert live.get_task("t").percents == {"train"}

    def test_position_and_memory_are_those_of_the_last_stored_line(self, live: BaseService) -> None:
        parser = LineParser()
        handler = TrainingLogHandler("t", live, parser)
        for number in range(1, 11):
            record = log_record(f"Epoch [{number}/10] started")
            record.position = 25 * number
            handler.emit(record)
        live.add_log("t", "INFO", "of the service's own")
        live.get_logs("t")
        assert live.store.read_progress("t") == (250, parser.memory)

    def test_a_record_of_several_lines_has_its_position_at_its_last(
        self, live: BaseService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put: list[LogEntry] = []
        monkeypatch.setattr(live.log_queues["t"], "put", put.append)
        record = log_record("one\ntwo")
        record.position = 8
        TrainingLogHandler("t", live).emit(record)
        assert [(entry.message, entry.position, entry.memory is None) for entry in put] == [
            ("one", None, True),
            ("two", 8, False),
        ]

    def test_a_parser_with_memory_reads_on_where_the_last_one_was(self, live: BaseService) -> None:
        before = LineParser()
        before.parse("Epoch [3/10] started")
        memory = Memory.from_json(json.loads(json.dumps(before.memory.to_json())))
        TrainingLogHandler("t", live, LineParser(memory=memory)).emit(log_record("Train Loss: 0.5"))
        (entry,) = live.get_logs("t")
        assert entry["metrics"] == {"epoch": 3, "total_epochs": 10, "train_loss": 0.5}


class TestPatternsThatMatchNothing:
    @pytest.fixture
    def live(self, base: BaseService) -> BaseService:
        base.create_log_queue("t", task_state(status=TaskStatus.RUNNING, warnings=("first",)))
        return base

    def warnings(self, live: BaseService) -> list[str]:
        """WARNING lines, which stand among the task's warnings too."""
        said = [entry["message"] for entry in live.get_logs("t") if entry["level"] == "WARNING"]
        assert live.get_task("t").warnings == ("first", *said)
        stored = live.store.get_task("t")
        assert stored is not None
        assert stored.warnings == live.get_task("t").warnings
        return said

    def test_after_200_lines_each_is_named_once(self, live: BaseService) -> None:
        handler = TrainingLogHandler("t", live, reading("Dice: ([0-9.]+)", "IoU: ([0-9.]+)"))
        for number in range(FIRST_LINES - 1):
            handler.emit(log_record(f"Dice: 0.{number}"))
        assert self.warnings(live) == []
        for number in range(FIRST_LINES):
            handler.emit(log_record(f"Dice: 0.{number}"))
        handler.finish()
        assert self.warnings(live) == ["Pattern 'iou' has matched none of the first 200 lines."]
        messages = history(live, "t")
        assert messages[FIRST_LINES].startswith("Pattern 'iou'"), "right after the 200th line"

    def test_at_the_end_of_a_shorter_log_as_well(self, live: BaseService) -> None:
        handler = TrainingLogHandler("t", live, reading("Dice: ([0-9.]+)"))
        handler.emit(log_record("one\ntwo\nthree"))
        handler.finish()
        handler.finish()
        assert self.warnings(live) == ["Pattern 'dice' has matched none of 3 lines."]

    def test_where_no_line_was_printed_the_pattern_is_not_to_blame(self, live: BaseService) -> None:
        TrainingLogHandler("t", live, reading("Dice: ([0-9.]+)")).finish()
        assert self.warnings(live) == []

    @pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
    def test_a_later_service_says_what_has_not_been_said(self, live: BaseService, told: bool) -> None:
        warning = "Pattern 'dice' has matched none of the first 200 lines."
        parser = reading("Dice: ([0-9.]+)")
        for _ in range(FIRST_LINES):
            parser.parse("a line")
        definitions = [MetricDefinition(name="dice", regex="Dice: ([0-9.]+)")]
        again = LineParser(definitions, memory=parser.memory)
        TrainingLogHandler("t", live, again, [warning] if told else []).emit(log_record("one more"))
        assert self.warnings(live) == ([] if told else [warning])
