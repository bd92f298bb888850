"""Asking about trainings, stopping and deleting them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.schemas import TaskStatus
from tests.api.conftest import Dictate, Start, Watch
from tests.api.viewer import Event
from tests.running_server import RunningServer

Train = Callable[..., tuple[str, list[Event]]]

DOCUMENTED_KEYS = {
    *("task_id", "task_type", "status", "progress", "device", "current_epoch", "total_epochs"),
    *("latest_metrics", "created_at", "updated_at"),
}
"""Of the change log's status response."""


def status_of(http: httpx.Client, task_id: str, **query: str) -> dict[str, Any]:
    answer = http.get(f"/api/v2/training/{task_id}", params=query)
    assert answer.status_code == 200, answer.text
    task = answer.json()
    assert isinstance(task, dict)
    return task


# --- Status ------------------------------------------------------------------------------------------------------


def test_a_plain_request_gets_exactly_the_documents_keys_throughout(
    http: httpx.Client, body: dict[str, Any], dictate: Dictate, watch: Watch
) -> None:
    dictation = dictate()
    answer = http.post("/api/v2/training/start", json=body)
    assert answer.json().keys() == DOCUMENTED_KEYS
    task_id = answer.json()["task_id"]

    dictation.say("Epoch [1/2] started", "Train Loss: 0.5, Train Accuracy: 80%", "so far")
    watch(task_id).until_message("so far")
    assert status_of(http, task_id).keys() == DOCUMENTED_KEYS
    assert status_of(http, task_id)["status"] == "running"

    dictation.end()
    list(watch(task_id).events())
    assert status_of(http, task_id).keys() == DOCUMENTED_KEYS
    assert status_of(http, task_id)["status"] == "completed"


def test_fields_that_were_asked_for_are_added(train: Train, http: httpx.Client) -> None:
    wanted = {"name": "best", "description": "the first", "priority": 2}
    task_id, _ = train(**wanted)

    task = status_of(http, task_id)
    assert task.keys() == DOCUMENTED_KEYS | wanted.keys()
    assert wanted.items() <= task.items()


def test_status_follows_the_log(http: httpx.Client, dictate: Dictate, start: Start, watch: Watch) -> None:
    dictation = dictate()
    task_id = start(num_epochs=4)
    viewer = watch(task_id)

    def after(line: str) -> dict[str, Any]:
        dictation.say(line)
        viewer.until_message(line)
        return status_of(http, task_id)

    task = after("Epoch [1/4] started")
    assert (task["current_epoch"], task["total_epochs"], task["progress"]) == (1, 4, 0)
    task = after("Epoch [1/4], Step [50/100], Train Loss: 0.7")
    assert (task["latest_metrics"]["train_loss"], task["progress"]) == (0.7, 12)
    task = after("Validation Loss: 0.6, Validation Accuracy: 75%")
    assert (task["latest_metrics"]["val_acc"], task["progress"]) == (75.0, 25)
    task = after("Epoch [2/4] started")
    assert (task["current_epoch"], task["progress"]) == (2, 25)
    task = after("Train Loss: nan, Train Accuracy: 10%")
    assert task["latest_metrics"]["train_loss"] is None
    assert task["latest_metrics"]["val_acc"] == 75.0


def test_times_are_local_and_in_order(http: httpx.Client, train: Train) -> None:
    before = datetime.now()
    task = status_of(http, train("one")[0])
    created, updated = (datetime.fromisoformat(task[name]) for name in ("created_at", "updated_at"))

    assert created.tzinfo is None
    assert before <= created <= updated <= datetime.now()


def test_metrics_selects_what_status_shows(http: httpx.Client, train: Train) -> None:
    task_id, _ = train("Epoch [1/2] started", "Train Loss: 0.5, Train Accuracy: 80%", "Learning Rate: 0.01")

    everything = status_of(http, task_id)
    assert everything["latest_metrics"].keys() == {"epoch", "total_epochs", "train_loss", "train_acc", "learning_rate"}
    for query in ("train_loss,learning_rate", " train_loss , learning_rate ,", "learning_rate,unknown,train_loss"):
        selected = status_of(http, task_id, metrics=query)
        assert selected["latest_metrics"] == {"train_loss": 0.5, "learning_rate": 0.01}
        assert selected | {"latest_metrics": None} == everything | {"latest_metrics": None}
    assert status_of(http, task_id, metrics="unknown")["latest_metrics"] == {}
    assert status_of(http, task_id, metrics="") == everything


@pytest.mark.parametrize("path", ["", "/logs", "/logs/history"])
@pytest.mark.parametrize("task_id", ["nobody", "a.b", "%20", "任务", "%2e%2e", "x" * 64, "start"])
def test_a_task_that_is_not_there_is_404(http: httpx.Client, path: str, task_id: str) -> None:
    answer = http.get(f"/api/v2/training/{task_id}{path}")

    assert (answer.status_code, answer.json()["code"]) == (404, "task_not_found")


@pytest.mark.parametrize("task_id", ["%00", "a%00b", "x" * 65])
def test_an_id_that_no_task_can_have_is_refused(http: httpx.Client, task_id: str) -> None:
    """PostgreSQL would answer a NUL with an error."""
    for method, path in [("GET", ""), ("GET", "/logs"), ("GET", "/logs/history"), ("POST", "/stop"), ("DELETE", "")]:
        answer = http.request(method, f"/api/v2/training/{task_id}{path}")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "task_id")


# --- List --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_http(serve: Callable[..., RunningServer]) -> Iterator[httpx.Client]:
    """A client of a service that no other test uses: the list shows everything."""
    with httpx.Client(base_url=serve(max_training_concurrent_cpu=2).url) as client:
        yield client


def listed(http: httpx.Client, **query: Any) -> list[str]:
    return [task["task_id"] for task in http.get("/api/v2/training", params=query).json()["tasks"]]


def test_an_empty_list_is_a_list(own_http: httpx.Client) -> None:
    assert own_http.get("/api/v2/training").json() == {"event_id": "0.0", "tasks": []}


def test_list_shows_tasks_as_status_does_newest_first(own_http: httpx.Client, dictate: Dictate, start: Start) -> None:
    dictate()
    started = [start(own_http) for _ in range(3)]

    page = own_http.get("/api/v2/training").json()
    assert page.keys() == {"event_id", "tasks"}
    assert [task["task_id"] for task in page["tasks"]] == started[::-1]
    assert page["tasks"] == [status_of(own_http, task_id) for task_id in started[::-1]]


def test_list_can_be_narrowed_by_status_and_metrics(
    own_http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    finished = dictate()
    finished.say("Train Loss: 0.5, Train Accuracy: 80%")
    finished.end()
    completed = start(own_http)
    list(watch(completed, url=str(own_http.base_url)).events())
    dictate()
    running = [start(own_http), start(own_http)]
    queued = start(own_http)

    assert listed(own_http, status="completed") == [completed]
    assert listed(own_http, status="running") == running[::-1]
    assert listed(own_http, status=["queued", "completed"]) == [queued, completed]
    assert listed(own_http, status="failed") == []
    tasks = own_http.get("/api/v2/training", params={"status": "completed", "metrics": "train_acc"}).json()["tasks"]
    assert tasks[0]["latest_metrics"] == {"train_acc": 80.0}


def test_pages_are_stable_while_tasks_are_added_and_deleted(
    own_http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictate().end()
    started = [start(own_http) for _ in range(7)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = own_http.get("/api/v2/training", params=query).json()
        seen += [task["task_id"] for task in page["tasks"]]
        dictate().end()
        newest = start(own_http)
        list(watch(newest, url=str(own_http.base_url)).events())
        own_http.delete(f"/api/v2/training/{newest}").raise_for_status()
        start(own_http)
        if "next_cursor" not in page:
            break
        query["cursor"] = page["next_cursor"]

    assert seen == started[::-1]


def test_a_last_page_that_is_full_has_no_cursor(own_http: httpx.Client, dictate: Dictate, start: Start) -> None:
    dictate()
    for _ in range(2):
        start(own_http)

    assert "next_cursor" not in own_http.get("/api/v2/training", params={"limit": 2}).json()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "x"),
        ("cursor", "abc"),
        ("cursor", "-1"),
        ("cursor", ""),
        ("cursor", "9" * 19),
        ("status", "done"),
    ],
)
def test_a_list_that_cannot_be_is_refused(http: httpx.Client, field: str, value: str) -> None:
    answer = http.get("/api/v2/training", params={field: value})

    assert answer.status_code == 422
    assert [error["field"].partition(".")[0] for error in answer.json()["errors"]] == [field]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.dictionaries(st.sampled_from(["limit", "cursor", "status", "metrics"]), st.text(max_size=20)))
def test_no_query_is_answered_with_a_500(http: httpx.Client, query: dict[str, str]) -> None:
    assert http.get("/api/v2/training", params=query).status_code in {200, 422}


# --- Stop --------------------------------------------------------------------------------------------------------


def stop(http: httpx.Client, task_id: str) -> httpx.Response:
    return http.post(f"/api/v2/training/{task_id}/stop")


def test_stop_answers_what_the_document_says_and_ends_the_training(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictate()
    task_id = start()
    answer = stop(http, task_id)

    assert answer.status_code == 200
    assert answer.json().keys() == {"status", "message", "task_id"}
    assert (answer.json()["status"], answer.json()["task_id"]) == ("success", task_id)
    assert list(watch(task_id).events())[-1].entry["status"] == "cancelled"
    task = status_of(http, task_id)
    assert (task["status"], task["reason"]) == ("cancelled", "user_stop")


def test_stopping_twice_is_a_conflict_whether_the_first_has_taken_effect_or_not(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    busy = dictate(heeds_stop=False)
    task_id = start()
    assert stop(http, task_id).status_code == 200
    assert status_of(http, task_id)["status"] == "stopping"
    answer = stop(http, task_id)
    assert (answer.status_code, answer.json()["code"]) == (409, "task_stopping")

    busy.end()
    list(watch(task_id).events())
    answer = stop(http, task_id)
    assert (answer.status_code, answer.json()["code"]) == (409, "task_ended")
    assert status_of(http, task_id)["status"] in {status.value for status in TaskStatus if status.is_terminal}


def test_a_waiting_task_is_cancelled_at_once_and_never_runs(
    own_http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictate()
    running = [start(own_http), start(own_http)]
    waiting = start(own_http)
    assert status_of(own_http, waiting)["status"] == "queued"
    assert stop(own_http, waiting).status_code == 200

    events = list(watch(waiting, url=str(own_http.base_url)).events())
    assert events[-1].entry["status"] == "cancelled"
    assert not any(event.entry["message"].startswith("Training starts") for event in events)
    assert {status_of(own_http, task_id)["status"] for task_id in running} == {"running"}


def test_a_stopped_training_makes_room_for_the_next(
    own_http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictate()
    first, _ = start(own_http), start(own_http)
    waiting = start(own_http)
    stop(own_http, first).raise_for_status()

    watch(waiting, url=str(own_http.base_url)).until(lambda entry: entry["message"].startswith("Training starts"))
    assert status_of(own_http, waiting)["status"] == "running"


def test_smaller_priority_numbers_run_first(
    own_http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictate()
    first, _ = start(own_http), start(own_http)
    late, early = start(own_http, priority=7), start(own_http, priority=2)
    stop(own_http, first).raise_for_status()

    watch(early, url=str(own_http.base_url)).until(lambda entry: entry["message"].startswith("Training starts"))
    assert status_of(own_http, late)["status"] == "queued"


def test_stopping_nobody_is_404(http: httpx.Client) -> None:
    answer = stop(http, "nobody")

    assert (answer.status_code, answer.json()["code"]) == (404, "task_not_found")


# --- Delete ------------------------------------------------------------------------------------------------------


def test_an_active_task_cannot_be_deleted(http: httpx.Client, dictate: Dictate, start: Start) -> None:
    dictate()
    task_id = start()
    answer = http.delete(f"/api/v2/training/{task_id}")

    assert (answer.status_code, answer.json()["code"]) == (409, "task_active")
    assert "/stop" in answer.json()["detail"]
    assert status_of(http, task_id)["status"] == "running"


def test_a_deleted_task_is_gone_with_its_log_and_its_files_stay(http: httpx.Client, train: Train) -> None:
    task_id, _ = train("one")
    other, _ = train("two")
    answer = http.delete(f"/api/v2/training/{task_id}")

    assert answer.status_code == 200
    assert answer.json().keys() == {"status", "message", "task_id"}
    for path in ("", "/logs", "/logs/history"):
        assert http.get(f"/api/v2/training/{task_id}{path}").status_code == 404
    assert http.delete(f"/api/v2/training/{task_id}").status_code == 404
    assert stop(http, task_id).status_code == 404
    assert task_id not in listed(http, limit=200)
    assert status_of(http, other)["status"] == "completed"


def test_deleting_a_task_keeps_its_files(http: httpx.Client, body: dict[str, Any], train: Train, tmp_path: Any) -> None:
    task_id, _ = train("one")
    (tmp_path / "runs" / task_id / "model.pt").write_text("precious")
    http.delete(f"/api/v2/training/{task_id}").raise_for_status()

    assert (tmp_path / "runs" / task_id / "model.pt").read_text() == "precious"
