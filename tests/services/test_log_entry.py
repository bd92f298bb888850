"""A line on the wire: what JSON and Server-Sent Events can hold, and nothing that they cannot."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.schemas import DetailedLogEntry, TaskStatus
from services.log_entry import (
    LogEntry,
    StatusChange,
    clean_metrics,
    clean_step,
    clean_text,
    decode_frame,
    encode_frame,
    to_wire,
)
from tests.services.builders import line, turn
from tests.services.following import read_frames

TEXT = st.text(st.characters()) | st.lists(
    st.sampled_from(
        ["data: ", "id: 7", "event: x", ":", "\r", "\n", "\r\n\r\n", "\x85", "\u2028", "\x00", "\ud800", "a"]
    )
).map("".join)
"""Everything a Python string can be, lone surrogates included, and much of what an SSE parser reacts to."""
DOCUMENTED = {
    "timestamp": "2025-10-29T10:16:45",
    "level": "INFO",
    "message": "Train Loss: 0.5234, Train Accuracy: 82.45%",
    "metrics": {"epoch": 3, "total_epochs": 10, "train_loss": 0.5234, "train_acc": 82.45},
    "stage": "training",
}


@pytest.fixture
def shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock is eight hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        yield
    time.tzset()


class TestMetrics:
    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            (0.5, 0.5),
            (3, 3),
            (0, 0),
            (None, None),
            (math.nan, None),
            (math.inf, None),
            (-math.inf, None),
            (2**63 - 1, 2**63 - 1),
            (-(2**63), -(2**63)),
            (2**63, 9.223372036854775808e18),
            (10**400, None),
            (1.7976931348623157e308, 1.7976931348623157e308),
            (5e-324, 5e-324),
        ],
    )
    def test_a_number_that_json_and_the_store_can_hold_is_kept_and_any_other_is_null(
        self, value: Any, kept: Any
    ) -> None:
        cleaned = clean_metrics({"train_loss": value})
        assert cleaned == {"train_loss": kept}
        assert type(cleaned["train_loss"]) is type(kept)

    @pytest.mark.parametrize("name", ["total_epochs", "total_steps"])
    @pytest.mark.parametrize(
        ("value", "kept"), [(10, 10), (10.0, 10), (2.5, None), (1e300, None), (math.nan, None), (None, None)]
    )
    def test_a_count_is_whole_or_null(self, name: str, value: Any, kept: int | None) -> None:
        cleaned = clean_metrics({name: value})
        assert cleaned == {name: kept}
        assert type(cleaned[name]) is type(kept)

    @pytest.mark.parametrize("value", ["0.5 or so", [1], object()])
    def test_what_is_no_number_is_refused(self, value: object) -> None:
        with pytest.raises((TypeError, ValueError)):
            clean_metrics({"train_loss": value})

    def test_no_metrics_stay_no_metrics(self) -> None:
        assert clean_metrics(None) is None

    def test_names_are_text_that_a_store_can_hold(self) -> None:
        assert clean_metrics({"a\x00\ud800": 1, "n" * 500: 2}) == {"a\\x00\\ud800": 1, "n" * 128: 2}


class TestText:
    @pytest.mark.parametrize(
        ("text", "kept"),
        [("损失 0.5 \U0001f600", "损失 0.5 \U0001f600"), ("a\x00b", "a\\x00b"), ("a\ud800b\udfff", "a\\ud800b\\udfff")],
    )
    def test_what_a_store_cannot_hold_is_written_out(self, text: str, kept: str) -> None:
        assert clean_text(text) == kept

    @settings(deadline=None)
    @given(TEXT)
    def test_every_text_can_be_stored(self, text: str) -> None:
        cleaned = clean_text(text)
        assert "\x00" not in cleaned
        assert cleaned.encode("utf-8").decode("utf-8") == cleaned

    @pytest.mark.parametrize(
        ("step", "kept"),
        [(0, 0), (40, 40), (None, None), (2**63 - 1, 2**63 - 1), (2**63, None), (-(2**63), -(2**63)), (-(2**64), None)],
    )
    def test_a_step_beyond_what_a_store_counts_is_left_out(self, step: int | None, kept: int | None) -> None:
        assert clean_step(step) == kept


class TestWireForm:
    @pytest.mark.usefixtures("shanghai")
    def test_the_published_example_is_written_word_for_word(self) -> None:
        entry = LogEntry(
            task_id="t",
            level="INFO",
            message="Train Loss: 0.5234, Train Accuracy: 82.45%",
            metrics={"epoch": 3, "total_epochs": 10, "train_loss": 0.5234, "train_acc": 82.45},
            stage="training",
            timestamp=datetime(2025, 10, 29, 2, 16, 45, tzinfo=UTC),
        )
        assert to_wire(entry) == DOCUMENTED
        assert list(to_wire(entry)) == list(DOCUMENTED)

    @pytest.mark.parametrize("nothing", [None, {}])
    def test_a_key_that_is_not_set_is_left_out(self, nothing: dict[str, float] | None) -> None:
        assert to_wire(line(metrics=nothing)).keys() == {"timestamp", "level", "message"}

    def test_a_step_of_zero_is_a_step(self) -> None:
        assert to_wire(line(step=0))["step"] == 0

    def test_a_value_that_was_not_finite_is_null(self) -> None:
        frame = encode_frame(1, to_wire(line(metrics=clean_metrics({"train_loss": math.nan}))))
        assert b'"train_loss":null' in frame

    def test_clients_can_subtract_their_own_clock(self) -> None:
        moment = datetime.fromisoformat(to_wire(line())["timestamp"])
        assert abs((datetime.now() - moment).total_seconds()) < 60

    @pytest.mark.parametrize("status", ["pending", "queued", "running", "stopping"])
    def test_a_line_that_does_not_end_the_task_shows_no_status(self, status: str) -> None:
        entry = turn(TaskStatus(status), reason="user_stop")
        assert to_wire(entry).keys() == {"timestamp", "level", "message"}
        assert not entry.is_last

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_the_last_line_shows_how_the_task_ended(self, status: str) -> None:
        entry = turn(TaskStatus(status))
        assert to_wire(entry)["status"] == status
        assert entry.is_last

    def test_a_training_that_has_completed_needs_no_reason(self) -> None:
        assert to_wire(turn(TaskStatus.COMPLETED)).keys() == {"timestamp", "level", "message", "status"}

    def test_the_last_line_of_an_earlier_attempt_is_not_the_last_of_the_task(self) -> None:
        entry = turn(TaskStatus.FAILED, reason="diverged", attempt=2)
        assert to_wire(entry, 2)["status"] == "failed"
        assert to_wire(entry, 3).keys() == {"timestamp", "level", "message", "attempt"}

    def test_the_last_line_shows_why(self) -> None:
        entry = line(change=StatusChange(TaskStatus.FAILED, "diverged", "The loss is NaN.", "cuda:0"))
        assert to_wire(entry).keys() == {"timestamp", "level", "message", "status", "reason"}
        assert to_wire(entry)["reason"] == "diverged"

    def test_every_key_is_one_of_the_published_model(self) -> None:
        entry = line(
            metrics={"train_loss": 0.5},
            step=1,
            stage="training",
            change=StatusChange(TaskStatus.FAILED, "diverged"),
            attempt=2,
        )
        wire = to_wire(entry)
        assert wire.keys() == DetailedLogEntry.model_fields.keys()
        DetailedLogEntry.model_validate(wire)


class TestFrames:
    @settings(deadline=None)
    @given(st.integers(1, 2**63 - 1), TEXT)
    @example(1, "fine\r\n\r\nid: 999\r\ndata: {}\r\n\r\n")
    @example(1, "fine\rdata: forged\n\nevent: end\n: comment")
    @example(1, "\ufeff")
    def test_a_message_is_always_the_data_of_exactly_one_event(self, number: int, message: str) -> None:
        wire = to_wire(line(clean_text(message)))
        frames = read_frames(encode_frame(number, wire))
        assert [(frame.id, frame.entry) for frame in frames] == [(number, wire)]

    @settings(deadline=None)
    @given(TEXT)
    @example("fine\u2028data: {}\u2028")
    @example("fine\x85\x85id: 999\x85data: {}\x85\x85")
    def test_a_message_forges_nothing_for_a_client_that_splits_at_every_line_end_of_unicode(self, message: str) -> None:
        wire = to_wire(line(clean_text(message)))
        lines = encode_frame(1, wire).decode("utf-8").splitlines()
        assert lines[0] == "id: 1"
        assert json.loads(lines[1].removeprefix("data: ")) == wire
        assert lines[2:] == [""]

    @settings(deadline=None)
    @given(st.dictionaries(TEXT, st.integers() | st.floats() | st.none(), max_size=4))
    def test_any_metrics_arrive_as_json_that_every_browser_reads(self, metrics: dict[str, int | float | None]) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        cleaned = clean_metrics(metrics)
        frame = encode_frame(1, to_wire(line(metrics=cleaned)))
        data = frame.split(b"data: ", 1)[1]
        assert json.loads(data, parse_constant=refuse).get("metrics", {}) == cleaned

    def test_a_frame_is_read_back_as_it_was_made(self) -> None:
        wire = to_wire(line("data: 损失\nid: 3", metrics={"train_loss": 0.5}, step=2))
        assert decode_frame(encode_frame(12, wire)) == wire

    def test_frames_in_a_row_stay_apart(self) -> None:
        stream = b"".join(encode_frame(number, to_wire(line(f"line {number}"))) for number in (1, 2, 3))
        assert [(frame.id, frame.entry["message"]) for frame in read_frames(stream)] == [
            (1, "line 1"),
            (2, "line 2"),
            (3, "line 3"),
        ]
