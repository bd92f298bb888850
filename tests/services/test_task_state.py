"""What the lines of a log say about their task."""

from __future__ import annotations

from datetime import datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.schemas import Stage, TaskStatus, TrainingMetrics, wire
from services.log_entry import LogEntry, clean_metrics, clean_step
from services.parsing import LineParser
from services.task_state import MAX_NAMES, TaskState, too_many_names
from tests.services.builders import fold, line, task_state, turn

RUNNING = task_state(status=TaskStatus.RUNNING)
ALLOWED = {
    ("pending", "queued"),
    ("pending", "running"),
    ("pending", "failed"),
    ("pending", "cancelled"),
    ("queued", "running"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("running", "stopping"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("stopping", "completed"),
    ("stopping", "failed"),
    ("stopping", "cancelled"),
    ("running", "queued"),
    ("failed", "queued"),
    ("cancelled", "queued"),
}
"""The life of a task, arrow by arrow."""
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
NUMBERS = st.integers() | st.floats()
STAGES = st.sampled_from([None, *(stage.value for stage in Stage)])


def parsed(*lines: str) -> list[LogEntry]:
    """Lines as they reach the fold from a trainer."""
    parser = LineParser()
    entries = []
    for text in lines:
        said = parser.parse(text)
        entries.append(line(text, metrics=clean_metrics(said.metrics), step=said.step, stage=said.stage))
    return entries


@st.composite
def any_lines(draw: st.DrawFn) -> list[LogEntry]:
    """Lines as `add_log` lets them in, sane or not."""
    names = st.sampled_from(["epoch", "total_epochs", "total_steps", "train_loss", "best_acc"]) | st.text(max_size=5)
    metrics = st.none() | st.dictionaries(names, NUMBERS | st.none(), max_size=4)
    return [
        line(metrics=clean_metrics(draw(metrics)), step=clean_step(draw(st.none() | st.integers())), stage=draw(STAGES))
        for _ in range(draw(st.integers(1, 12)))
    ]


def test_a_line_that_changes_the_priority_changes_what_was_asked_for() -> None:
    """So a status shows it, and a later service queues the task by it."""
    before = task_state(status=TaskStatus.QUEUED)
    after = fold(before, line(priority=1), line())
    assert (after.priority, after.request) == (1, {**before.request, "priority": 1})
    assert "priority" not in wire(before.to_response())
    assert wire(after.to_response())["priority"] == 1


class TestLines:
    def test_lines_are_numbered_from_one(self) -> None:
        state, numbers = RUNNING, []
        for _ in range(3):
            state, (entry,) = state.after([line()])
            numbers.append((entry.seq, state.last_seq))
        assert numbers == [(1, 1), (2, 2), (3, 3)]

    def test_a_line_changes_when_the_task_was_updated(self) -> None:
        entry = line()
        assert fold(RUNNING, entry).updated_at == entry.timestamp
        assert fold(RUNNING, entry).created_at == RUNNING.created_at

    def test_a_line_before_any_stage_belongs_to_the_training(self) -> None:
        assert RUNNING.after([line()])[1][0].stage == "training"

    def test_a_line_without_a_stage_gets_the_one_the_training_is_in(self) -> None:
        state, (validating,) = RUNNING.after([line(stage="validation")])
        state, (silent,) = state.after([line()])
        state, (ending,) = state.after([line(stage="epoch_end")])
        _, (silent_again,) = state.after([line()])
        assert [validating.stage, silent.stage] == ["validation", "validation"]
        assert [ending.stage, silent_again.stage] == ["epoch_end", "epoch_end"]

    def test_a_state_that_somebody_holds_never_changes(self) -> None:
        before = repr(RUNNING)
        fold(RUNNING, line(metrics={"epoch": 1, "total_epochs": 2}), turn(TaskStatus.COMPLETED))
        assert repr(RUNNING) == before


class TestMetrics:
    def test_new_values_replace_old_ones_and_the_rest_stays(self) -> None:
        state = fold(
            RUNNING,
            line(metrics={"train_loss": 0.9, "train_acc": 50.0}),
            line(metrics={"train_loss": 0.5}),
            line(metrics={"val_acc": 61.0}),
        )
        assert state.latest_metrics == {"train_loss": 0.5, "train_acc": 50.0, "val_acc": 61.0}

    @pytest.mark.parametrize("nothing", [None, {}])
    def test_a_line_without_metrics_leaves_them(self, nothing: dict[str, float] | None) -> None:
        assert fold(RUNNING, line(metrics={"mAP": 0.5}), line(metrics=nothing)).latest_metrics == {"mAP": 0.5}

    def test_a_value_that_was_not_finite_stands_as_null(self) -> None:
        state = fold(RUNNING, line(metrics={"train_loss": 0.5}), line(metrics={"train_loss": None}))
        assert state.latest_metrics == {"train_loss": None}

    def test_names_without_end_are_left_in_their_lines_and_the_task_says_so(self) -> None:
        names = [f"loss/{number}" for number in range(MAX_NAMES + 2)]
        full = fold(RUNNING, *(line(metrics={name: 1.0}) for name in names[:MAX_NAMES]))
        assert full.warnings == ()
        news = {names[0]: 0.5, **dict.fromkeys(names[MAX_NAMES:], 0.1)}
        state, (entry,) = full.after([line(metrics=news)])
        assert entry.metrics == {names[0]: 0.5}
        assert state.latest_metrics == {**full.latest_metrics, **entry.metrics}
        assert state.warnings == (too_many_names(names[MAX_NAMES]),)
        assert fold(state, line(metrics={"another": 1.0})).warnings == state.warnings

    def test_of_the_names_of_one_line_the_first_ones_are_kept(self) -> None:
        names = [f"loss/{number}" for number in range(MAX_NAMES + 2)]
        assert list(fold(RUNNING, line(metrics=dict.fromkeys(names, 1.0))).latest_metrics) == names[:MAX_NAMES]

    @pytest.mark.parametrize("first", [True, False])
    def test_names_that_are_known_or_asked_for_have_room_and_take_none(self, first: bool) -> None:
        definitions = [{"name": "dice", "regex": "D=(.*)"}, {"name": None, "regex": "(?P<iou>.*) (?<hd>.*)"}]
        state = task_state(status=TaskStatus.RUNNING, request={"metric_definitions": definitions})
        made_up = dict.fromkeys([f"loss/{number}" for number in range(MAX_NAMES)], 1.0)
        known = dict.fromkeys([*TrainingMetrics.model_fields, "cpu_percent", "gpu_percent", "dice", "iou", "hd"], 0.5)
        lines = [line(metrics=known), line(metrics=made_up)]
        full = fold(state, *(lines if first else reversed(lines)), line(metrics=known))
        assert full.latest_metrics == {**known, **made_up}
        assert full.warnings == ()

    def test_the_epoch_is_the_one_that_was_printed_last(self) -> None:
        state = fold(RUNNING, line(metrics={"epoch": 2, "total_epochs": 10}), line(metrics={"epoch": 3}))
        assert (state.current_epoch, state.total_epochs) == (3, 10)

    def test_an_epoch_that_is_no_number_is_no_news(self) -> None:
        state = fold(RUNNING, line(metrics={"epoch": 2, "total_epochs": 10}), line(metrics={"epoch": None}))
        assert (state.current_epoch, state.total_epochs) == (2, 10)

    def test_total_epochs_of_the_request_stand_until_the_log_says_otherwise(self) -> None:
        state = task_state(status=TaskStatus.RUNNING, total_epochs=10)
        assert fold(state, line(metrics={"epoch": 1})).total_epochs == 10
        assert fold(state, line(metrics={"epoch": 1, "total_epochs": 5})).total_epochs == 5


class TestProgress:
    @pytest.mark.parametrize(
        ("lines", "progress"),
        [
            (["Epoch [1/10] started"], 0),
            (["Epoch [3/10] started"], 20),
            (["Epoch [3/10] started", "Train Loss: 0.5234, Train Accuracy: 82.45%"], 20),
            (["Epoch [3/10] started", "Validation Loss: 0.6123, Validation Accuracy: 78.92%"], 30),
            (["Epoch [3/10] finished"], 30),
            (["Epoch [1/2], Step [5/10], Train Loss: 0.5"], 25),
            (["Epoch [2/2], Step [5/10], Train Loss: 0.5"], 75),
            (["Epoch [1/2], Step [99/10], Train Loss: 0.5"], 50),
            (["Epoch [1/2], Step [5/0], Train Loss: 0.5"], 0),
            (["Epoch [1/2], Step [5/10]", "Epoch [1/2], Train Loss: 0.4"], 25),
            (["Epoch [10/10] finished", "Training complete."], 99),
            (["Epoch [11/10] finished"], 99),
            (["Epoch [0/10] finished"], 0),
            (["Epoch [3/0] finished"], 0),
            (["Validation Loss: 0.6"], 0),
        ],
    )
    def test_progress_is_the_share_of_epochs_that_the_log_shows(self, lines: list[str], progress: int) -> None:
        assert fold(RUNNING, *parsed(*lines)).progress == progress

    def test_an_epoch_that_is_printed_again_does_not_take_progress_back(self) -> None:
        assert fold(RUNNING, *parsed("Epoch [5/10] finished", "Epoch [1/10] started")).progress == 50

    def test_only_a_completed_task_is_at_100(self) -> None:
        at_the_end = fold(RUNNING, *parsed("Epoch [10/10] finished"))
        assert fold(at_the_end, turn(TaskStatus.COMPLETED)).progress == 100
        assert fold(at_the_end, turn(TaskStatus.FAILED)).progress == 99
        assert fold(RUNNING, turn(TaskStatus.COMPLETED)).progress == 100

    @settings(deadline=None)
    @given(any_lines())
    def test_progress_never_goes_back_and_never_reaches_100_while_running(self, lines: list[LogEntry]) -> None:
        state = RUNNING
        for entry in lines:
            following, _ = state.after([entry])
            assert state.progress <= following.progress <= 99
            state = following

    @settings(deadline=None)
    @given(any_lines())
    def test_a_status_answer_can_be_made_after_any_line(self, lines: list[LogEntry]) -> None:
        state = fold(RUNNING, *lines)
        answer = state.to_response().model_dump_json(exclude_unset=True)
        for entry in lines:
            assert all(f'"{name}":' in answer for name in entry.metrics or () if name.isidentifier() and name.isascii())


class TestStatus:
    @pytest.mark.parametrize(("before", "after"), list(product(TaskStatus, TaskStatus)))
    def test_a_status_follows_another_only_along_the_arrows(self, before: TaskStatus, after: TaskStatus) -> None:
        state = task_state(status=before)
        if (before.value, after.value) in ALLOWED:
            assert fold(state, turn(after)).status is after
        else:
            with pytest.raises(AssertionError, match=f"{before} cannot become {after}"):
                state.after([turn(after)])

    def test_a_line_that_changes_nothing_leaves_the_status(self) -> None:
        assert fold(RUNNING, line()).status is TaskStatus.RUNNING

    def test_the_device_is_the_one_that_the_task_was_given(self) -> None:
        waiting = task_state(device="cuda", status=TaskStatus.QUEUED)
        running = fold(waiting, turn(TaskStatus.RUNNING, device="cuda:1"))
        assert running.device == "cuda:1"
        assert fold(running, turn(TaskStatus.COMPLETED)).device == "cuda:1"

    def test_reason_and_error_belong_to_the_status_they_came_with(self) -> None:
        stopping = fold(RUNNING, turn(TaskStatus.STOPPING, reason="user_stop"))
        assert stopping.reason == "user_stop"
        assert fold(stopping, line()).reason == "user_stop"
        assert fold(stopping, turn(TaskStatus.COMPLETED)).reason == "finished"
        failed = fold(stopping, turn(TaskStatus.FAILED, reason="diverged", error="The loss is NaN."))
        assert (failed.reason, failed.error) == ("diverged", "The loss is NaN.")


class TestAnswer:
    def test_the_published_example_is_answered_word_for_word(self) -> None:
        state = fold(
            task_state(
                "abc-123-def-456",
                device="cuda:0",
                status=TaskStatus.RUNNING,
                current_epoch=0,
                total_epochs=10,
            ),
            *parsed(
                "Epoch [3/10] started",
                "Train Loss: 0.5234, Train Accuracy: 82.45%",
                "Validation Loss: 0.6123, Validation Accuracy: 78.92%",
                "Validation macro_F1: 0.7654",
                "Validation micro_F1: 0.7892",
                "Validation mAP: 0.8123",
                "Validation Top-k Accuracy: {'top1': 78.92, 'top3': 92.34, 'top5': 96.78}",
                "New best model saved with Accuracy: 79.12%",
                "Learning Rate: 0.0001",
            ),
        )
        answer = wire(state.to_response())
        answer.pop("created_at")
        answer.pop("updated_at")
        assert answer == {
            "task_id": "abc-123-def-456",
            "task_type": "training",
            "status": "running",
            "progress": 30,
            "device": "cuda:0",
            "current_epoch": 3,
            "total_epochs": 10,
            "latest_metrics": {
                "epoch": 3,
                "total_epochs": 10,
                "train_loss": 0.5234,
                "train_acc": 82.45,
                "val_loss": 0.6123,
                "val_acc": 78.92,
                "macro_f1": 0.7654,
                "micro_f1": 0.7892,
                "mAP": 0.8123,
                "top1_acc": 78.92,
                "top3_acc": 92.34,
                "top5_acc": 96.78,
                "best_acc": 79.12,
                "learning_rate": 0.0001,
            },
        }

    def test_a_plain_request_gets_exactly_the_documented_keys(self) -> None:
        assert wire(task_state(current_epoch=0, total_epochs=10).to_response()).keys() == DOCUMENTED_KEYS

    def test_a_task_without_metrics_has_an_empty_object_of_them(self) -> None:
        assert wire(task_state().to_response())["latest_metrics"] == {}

    @pytest.mark.parametrize(
        ("field", "value", "shown"),
        [
            ("name", "first", "first"),
            ("description", "a try", "a try"),
            ("reason", "user_stop", "user_stop"),
            ("error", "Out of memory.", "Out of memory."),
            ("warnings", ("Unknown field 'x' was ignored.",), ["Unknown field 'x' was ignored."]),
        ],
    )
    def test_an_optional_field_is_there_only_where_it_is_set(self, field: str, value: Any, shown: Any) -> None:
        plain = wire(task_state().to_response())
        answer = wire(task_state(**{field: value}).to_response())
        assert field not in plain
        assert answer == {**plain, field: shown}

    def test_priority_is_answered_to_those_who_sent_one(self) -> None:
        def answer(request: dict[str, Any]) -> dict[str, Any]:
            return wire(task_state(priority=5, request=request).to_response())

        assert "priority" not in answer({"model": "resnet18"})
        assert answer({"model": "resnet18", "priority": 5})["priority"] == 5

    def test_a_store_that_refuses_is_mentioned_while_it_does(self) -> None:
        assert "storage" not in wire(RUNNING.to_response(storage_degraded=False))
        assert wire(RUNNING.to_response(storage_degraded=True))["storage"] == "degraded"

    @pytest.mark.parametrize(
        ("names", "shown"),
        [
            ({"val_acc"}, {"val_acc": 61.0}),
            ({"val_acc", "train_loss", "no_such_metric"}, {"val_acc": 61.0, "train_loss": None}),
            ({"no_such_metric"}, {}),
        ],
    )
    def test_only_the_metrics_that_were_asked_for_are_shown(self, names: set[str], shown: dict[str, Any]) -> None:
        state = fold(RUNNING, line(metrics={"train_loss": None, "val_acc": 61.0, "my_own": 1}))
        assert wire(state.to_response(metrics=frozenset(names)))["latest_metrics"] == shown

    def test_metrics_of_foreign_names_are_shown_as_they_are(self) -> None:
        assert wire(fold(RUNNING, line(metrics={"my_own": 1})).to_response())["latest_metrics"] == {"my_own": 1}

    def test_clients_can_subtract_their_own_clock(self) -> None:
        answer = fold(RUNNING, line()).to_response()
        assert abs((datetime.now() - answer.updated_at).total_seconds()) < 60
        assert answer.created_at.tzinfo is None


def test_every_published_metric_can_be_shown() -> None:
    metrics: dict[str, int | float | None] = dict.fromkeys(TrainingMetrics.model_fields, 1)
    state: TaskState = fold(RUNNING, line(metrics=metrics))
    assert wire(state.to_response())["latest_metrics"] == metrics
