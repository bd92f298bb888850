"""The course of metrics over HTTP, and tasks side by side."""

from __future__ import annotations

import csv
import io
from typing import Any

import httpx
import pytest

from models.history import ComparisonResponse, MetricsResponse
from tests.api.conftest import Dictate, Start, Watch
from tests.api.viewer import Event

TRAINING = "/api/v2/training"
EPOCHS = [
    "Epoch [1/2] started",
    "Train Loss: 0.9, Train Accuracy: 60%",
    "Validation Loss: 0.8, Validation Accuracy: 70%",
    "Epoch [2/2] started",
    "Train Loss: 0.5, Train Accuracy: 80%",
    "Validation Loss: nan, Validation Accuracy: 75%",
]


def history(http: httpx.Client, task_id: str, **query: Any) -> dict[str, Any]:
    answer = http.get(f"{TRAINING}/{task_id}/metrics", params=query)
    assert answer.status_code == 200, answer.text
    MetricsResponse.model_validate(answer.json())
    return dict(answer.json())


def series(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return next(dict(each) for each in answer["series"] if each["name"] == name)


def test_each_point_carries_its_line(http: httpx.Client, train: Any) -> None:
    task_id, events = train(*EPOCHS)
    answer = history(http, task_id)
    assert (answer["task_id"], answer["x"], answer["revision"]) == (task_id, "epoch", 0)
    assert answer["last_id"] == events[-1].number
    loss = series(answer, "val_loss")
    assert (loss["values"], loss["x"], loss["total"]) == ([0.8, None], [1, 2], 2)
    lines = {event.number: event.entry["message"] for event in events}
    assert [lines[number] for number in loss["ids"]] == [EPOCHS[2], EPOCHS[5]]
    assert series(answer, "val_acc")["unit"] == "percent"
    assert "attempts" not in loss


def test_what_is_new_comes_after_the_cursor(http: httpx.Client, dictate: Dictate, start: Start, watch: Watch) -> None:
    dictation = dictate()
    task_id = start()
    dictation.say(*EPOCHS[:3])
    watch(task_id).until_message(EPOCHS[2])
    first = history(http, task_id, names="val_loss,train_loss")
    dictation.say(*EPOCHS[3:])
    dictation.end()
    list(watch(task_id).events())
    later = history(http, task_id, names="val_loss,train_loss", after=first["last_id"])
    whole = history(http, task_id, names="val_loss,train_loss")
    for name in ("train_loss", "val_loss"):
        parts = [series(answer, name)["ids"] for answer in (first, later)]
        assert parts[0] + parts[1] == series(whole, name)["ids"]


def test_another_reading_has_another_revision(http: httpx.Client, train: Any) -> None:
    task_id, _ = train(*EPOCHS)
    http.post(f"{TRAINING}/{task_id}/reparse", json={"log_format": "none"}).raise_for_status()
    answer = history(http, task_id)
    assert (answer["revision"], answer["series"]) == (1, [])


@pytest.mark.parametrize("axis", ["epoch", "step", "time"])
def test_every_axis_is_answered(http: httpx.Client, train: Any, axis: str) -> None:
    task_id, _ = train(*EPOCHS)
    answer = history(http, task_id, x=axis)
    assert answer["x"] == axis
    if axis == "time":
        places = series(answer, "train_loss")["x"]
        assert 0 <= places[0] <= places[1] < 60


@pytest.mark.parametrize("query", [{"x": "moon"}, {"max_points": 1}, {"after": -1}, {"attempts": "some"}])
def test_a_question_that_makes_no_sense_is_refused(http: httpx.Client, train: Any, query: dict[str, Any]) -> None:
    task_id, _ = train(*EPOCHS)
    assert http.get(f"{TRAINING}/{task_id}/metrics", params=query).status_code == 422


@pytest.mark.parametrize("route", ["metrics", "metrics/export"])
def test_there_must_be_such_a_task(http: httpx.Client, route: str) -> None:
    assert http.get(f"{TRAINING}/nobody/{route}").json()["code"] == "task_not_found"


class TestCompare:
    def test_tasks_stand_side_by_side(self, http: httpx.Client, train: Any) -> None:
        one, _ = train(*EPOCHS, name="one", num_epochs=2)
        other, _ = train(*EPOCHS[:3], name="other", num_epochs=3)
        answer = http.get(f"{TRAINING}/compare", params={"ids": f"{one},{other},{one}", "x": "time"})
        assert answer.status_code == 200, answer.text
        found = ComparisonResponse.model_validate(answer.json())
        assert [(task.task_id, task.name, task.model) for task in found.tasks] == [
            (one, "one", "resnet18"),
            (other, "other", "resnet18"),
        ]
        accuracy = next(row for row in found.table if row.metric == "val_acc")
        assert {task_id: (value.best, value.best_epoch) for task_id, value in accuracy.tasks.items()} == {
            one: (75, 2),
            other: (70, 1),
        }
        assert (accuracy.goal, accuracy.unit) == ("max", "percent")
        assert {difference.field: difference.values for difference in found.differences} == {
            "num_epochs": {one: 2, other: 3}
        }
        assert {each.task_id for each in found.series} == {one, other}

    @pytest.mark.parametrize("ids", ["", "one", "one,one", ",".join(map(str, range(51)))])
    def test_two_to_fifty_tasks_are_compared(self, http: httpx.Client, ids: str) -> None:
        answer = http.get(f"{TRAINING}/compare", params={"ids": ids})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert [error["field"] for error in answer.json()["errors"]] == ["ids"]

    def test_each_of_them_must_exist(self, http: httpx.Client, train: Any) -> None:
        task_id, _ = train(*EPOCHS)
        assert http.get(f"{TRAINING}/compare", params={"ids": f"{task_id},nobody"}).status_code == 404


class TestExport:
    def test_a_file_is_named_after_its_task(self, http: httpx.Client, train: Any) -> None:
        task_id, _ = train(*EPOCHS, task_id="exported")
        answer = http.get(f"{TRAINING}/{task_id}/metrics/export", params={"names": "val_loss"})
        assert answer.headers["content-disposition"] == 'attachment; filename="exported.csv"'
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert [row["value"] for row in csv.DictReader(io.StringIO(answer.text))] == ["0.8", ""]

    def test_tensorboard_finds_its_file_by_its_name(self, http: httpx.Client, train: Any) -> None:
        task_id, _ = train(*EPOCHS, task_id="board")
        answer = http.get(f"{TRAINING}/{task_id}/metrics/export", params={"format": "tensorboard"})
        assert "events.out.tfevents.board" in answer.headers["content-disposition"]

    def test_there_are_three_formats(self, http: httpx.Client, train: Any) -> None:
        task_id, _ = train(*EPOCHS)
        answer = http.get(f"{TRAINING}/{task_id}/metrics/export", params={"format": "xlsx"})
        assert answer.status_code == 422
        assert "csv" in answer.json()["detail"]


def test_a_stream_and_its_history_agree(http: httpx.Client, train: Any) -> None:
    """Whoever adds up the metrics of the stream has the series."""
    task_id, events = train(*EPOCHS)
    told: dict[str, list[tuple[int, Any]]] = {}
    for event in events:
        event_metrics(event, told)
    answer = history(http, task_id)
    assert {each["name"]: list(zip(each["ids"], each["values"], strict=True)) for each in answer["series"]} == told


def event_metrics(event: Event, told: dict[str, list[tuple[int, Any]]]) -> None:
    for name, value in event.entry.get("metrics", {}).items():
        if name not in ("epoch", "total_epochs", "total_steps"):
            told.setdefault(name, []).append((event.number, value))
