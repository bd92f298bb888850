"""Tasks side by side."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.history import Comparison, MetricHistory
from services.history.comparison import Row, Standing
from services.history.series import Window
from services.state_machine import Transition
from services.task_state import TaskState
from tests.services.builders import MOMENT, line, task_state, turn
from tests.services.following import TIMEOUT_S

REQUEST = {"num_classes": 3, "train_path": "/t", "val_path": "/v", "save_path": "/s"}


@pytest.fixture
def comparison(base: BaseService) -> Comparison:
    return Comparison(MetricHistory(base.series, base.ask_for_buckets))


def task(base: BaseService, task_id: str, *metrics: dict[str, Any], **request: Any) -> TaskState:
    """A task with a line every ten seconds."""
    began = Transition(TaskStatus.RUNNING, "device_free", MOMENT)
    state = task_state(
        task_id, status=TaskStatus.RUNNING, history=(began,), request={"model": "resnet18", **REQUEST, **request}
    )
    queue = base.create_log_queue(task_id, state)
    for number, said in enumerate(metrics, start=1):
        percents = frozenset(name for name, value in said.items() if name.endswith("acc") and value > 1)
        when = MOMENT + timedelta(seconds=10 * number)
        queue.put(line(task_id=task_id, metrics=said, percents=percents, timestamp=when))
    base._writer.flush(TIMEOUT_S)
    return base.get_task(task_id)


def table(comparison: Comparison, states: list[TaskState], names: list[str] | None) -> list[Row]:
    return comparison.table(states, comparison.series(states, names, "epoch", Window(max_points=16)))


def test_best_is_the_lowest_loss_and_the_highest_accuracy_where_it_was_reached_first(
    base: BaseService, comparison: Comparison
) -> None:
    said = [
        {"epoch": 1, "val_loss": 0.9, "val_acc": 60.0, "learning_rate": 0.1},
        {"epoch": 2, "val_loss": 0.4, "val_acc": 80.0, "learning_rate": 0.2},
        {"epoch": 3, "val_loss": 0.4, "val_acc": 70.0, "learning_rate": 0.05},
    ]
    rows = {row.metric: row for row in table(comparison, [task(base, "a", *said)], None)}
    assert rows["val_loss"].standings["a"] == Standing(0.4, 3, 0.4, 2, 2, 20)
    assert rows["val_acc"].standings["a"] == Standing(70.0, 3, 80.0, 2, 2, 20)
    assert rows["learning_rate"].standings["a"] == Standing(0.05, 3)
    assert [(row.goal, row.unit) for row in rows.values()] == [("min", None), ("max", "percent"), (None, None)]


def test_fractions_and_percents_are_compared_as_percent(base: BaseService, comparison: Comparison) -> None:
    percent = task(base, "percent", {"val_acc": 78.92}, command=["x"], working_dir="/")
    fraction = task(base, "fraction", {"val_acc": 0.7892}, command=["x"], working_dir="/")
    (row,) = table(comparison, [percent, fraction], ["val_acc"])
    assert row.unit == "percent"
    assert {task_id: standing.best for task_id, standing in row.standings.items()} == {
        "percent": 78.92,
        "fraction": 78.92,
    }
    series = comparison.series([percent, fraction], None, "epoch", Window())
    assert [(task_id, each.unit, [point.value for point in each.points]) for task_id, each in series] == [
        ("percent", "percent", [78.92]),
        ("fraction", "percent", [78.92]),
    ]


def test_a_metric_that_was_never_finite_has_no_best(base: BaseService, comparison: Comparison) -> None:
    (row,) = table(comparison, [task(base, "a", {"val_loss": None})], None)
    assert row.standings["a"] == Standing(None, 1)


def test_metrics_that_most_tasks_have_come_first(base: BaseService, comparison: Comparison) -> None:
    states = [task(base, "a", {"mAP": 0.5, "val_loss": 1.0}), task(base, "b", {"val_loss": 2.0})]
    assert [row.metric for row in table(comparison, states, None)] == ["val_loss", "mAP"]


def test_an_epoch_that_was_trained_again_does_not_count_twice(base: BaseService, comparison: Comparison) -> None:
    task(base, "a", {"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": 0.1})
    base.log_queues["a"].put(turn(TaskStatus.QUEUED, "a", "interrupted", attempt=2))
    base.log_queues["a"].put(line(task_id="a", metrics={"epoch": 2, "val_loss": 0.3}, attempt=2))
    base._writer.flush(TIMEOUT_S)
    (row,) = table(comparison, [base.get_task("a")], None)
    assert (row.standings["a"].best, row.standings["a"].best_id) == (0.3, 4)


class TestDifferences:
    def test_defaults_count_and_what_is_the_same_does_not(self, base: BaseService, comparison: Comparison) -> None:
        states = [task(base, "a", batch_size=8), task(base, "b", batch_size=64, num_epochs=3), task(base, "c")]
        assert comparison.differences(states) == {
            "num_epochs": {"a": 100, "b": 3, "c": 100},
            "batch_size": {"a": 8, "b": 64, "c": 8},
        }

    def test_what_only_some_have_is_a_difference(self, base: BaseService, comparison: Comparison) -> None:
        command = {"command": ["train"], "working_dir": "/", "env": {"TOKEN": "secret"}}
        states = [task(base, "a"), task(base, "b", **command)]
        found = comparison.differences(states)
        assert found["kind"] == {"a": "training", "b": "command"}
        assert found["learning_rate"] == {"a": 1e-4}
        assert found["command"] == {"b": ["train"]}
        assert "secret" not in str(found)
