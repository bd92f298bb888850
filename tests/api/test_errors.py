"""Errors in one shape, and an OpenAPI document that says everything a client can meet."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from models.schemas import DetailedLogEntry, Stage, TaskResponse, TaskStatus, TrainingMetrics
from tests.api.conftest import Dictate, Start, Watch
from tests.running_server import RunningServer

Operation = dict[str, Any]
STATUS_PATH, LOGS_PATH = "/api/v2/training/{task_id}", "/api/v2/training/{task_id}/logs"


# --- Shape -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api/v2/training/a/b/c", "/api/v1", "/api/v2/trainingx", "/%00", "/任务"]
)
def test_a_path_that_is_no_route_is_404(http: httpx.Client, path: str) -> None:
    answer = http.get(path)

    assert answer.status_code == 404
    assert answer.json().keys() == {"detail", "code"}
    assert answer.json()["code"] == "not_found"
    assert "GET /" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/api/v2/training/some"), ("DELETE", "/api/v2/training"), ("POST", "/"), ("PATCH", "/api/v1/health")],
)
def test_a_method_that_a_route_has_not_is_405(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)

    assert answer.status_code == 405
    assert answer.json().keys() == {"detail", "code"}
    assert answer.json()["code"] == "method_not_allowed"
    assert "GET" in answer.headers["allow"]


def test_several_faults_are_listed_one_by_one(http: httpx.Client) -> None:
    answer = http.get("/api/v2/training/some/logs/history", params={"after": "x", "limit": "0"})

    assert answer.status_code == 422
    assert answer.json().keys() == {"detail", "code", "errors"}
    assert [error["field"] for error in answer.json()["errors"]] == ["after", "limit"]
    for error in answer.json()["errors"]:
        assert error.keys() == {"field", "code", "message"}
        assert f"{error['field']}: {error['message']}" in answer.json()["detail"]


# --- Our own mistakes --------------------------------------------------------------------------------------------


def test_an_internal_fault_is_a_500_that_is_logged_whole_and_ends_nothing(
    http: httpx.Client, server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    with monkeypatch.context() as patch:
        patch.setattr(server.service, "list_tasks", broken)
        answer = http.get("/api/v2/training")

    assert answer.status_code == 500
    assert answer.json().keys() == {"detail", "code"}
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text
    record = next(record for record in caplog.records if record.name == "api.errors")
    assert record.levelno == logging.ERROR
    assert "GET /api/v2/training" in record.getMessage()
    assert record.exc_info is not None
    assert "ZeroDivisionError: secret detail" in caplog.text
    assert answer.headers["connection"] == "close"
    assert http.get("/api/v2/training").status_code == 200


def test_a_path_in_the_service_log_cannot_forge_a_line_of_it(
    http: httpx.Client, server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.service, "get_task", broken)
    assert http.get("/api/v2/training/x%0AERROR%20forged").status_code == 500

    record = next(record for record in caplog.records if record.name == "api.errors")
    assert "\n" not in record.getMessage()


def test_a_fault_of_the_service_does_not_end_its_trainings(
    http: httpx.Client,
    server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    dictate: Dictate,
    start: Start,
    watch: Watch,
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    dictation = dictate()
    task_id = start()
    with monkeypatch.context() as patch:
        patch.setattr(server.service, "stop_training", broken)
        assert http.post(f"/api/v2/training/{task_id}/stop").status_code == 500
    dictation.say("goes on")
    dictation.end()

    events = list(watch(task_id).events())
    assert "goes on" in [event.entry["message"] for event in events]
    assert events[-1].entry["status"] == "completed"


# --- A store that refuses ----------------------------------------------------------------------------------------


@pytest.fixture
def locked_out(
    serve: Callable[..., RunningServer], settings: Any, monkeypatch: pytest.MonkeyPatch, dictate: Dictate
) -> Iterator[tuple[RunningServer, sqlite3.Connection]]:
    """A server whose store another process has locked, until `rollback`."""
    monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.05)
    server = serve()
    other = sqlite3.connect(settings.state_dir / "training.db", check_same_thread=False, isolation_level=None)
    yield server, other
    if other.in_transaction:
        other.execute("ROLLBACK")
    other.close()


def test_a_store_that_refuses_writes_is_said_and_loses_nothing(
    locked_out: tuple[RunningServer, sqlite3.Connection], body: dict[str, Any], dictate: Dictate, watch: Watch
) -> None:
    server, other = locked_out
    dictation = dictate()
    with httpx.Client(base_url=server.url) as http:
        task_id = http.post("/api/v2/training/start", json=body).json()["task_id"]
        viewer = watch(task_id, url=server.url)
        dictation.say("before")
        viewer.until_message("before")
        other.execute("BEGIN IMMEDIATE")
        dictation.say("during")
        while http.get("/api/v1/health").json()["status"] == "ok":
            pass

        assert http.get("/api/v1/health").json()["storage"] != "ok"
        assert http.get(f"/api/v2/training/{task_id}").json()["storage"] == "degraded"
        refused = http.post("/api/v2/training/start", json=body)
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        other.execute("ROLLBACK")
        viewer.until_message("during")
        assert "storage" not in http.get(f"/api/v2/training/{task_id}").json()
        assert http.get("/api/v1/health").json()["storage"] == "ok"
        assert http.post("/api/v2/training/start", json=body).status_code == 200


def test_a_write_that_takes_too_long_is_a_503(
    locked_out: tuple[RunningServer, sqlite3.Connection],
    body: dict[str, Any],
    dictate: Dictate,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, other = locked_out
    monkeypatch.setattr("services.training_service.WRITE_TIMEOUT_S", 0.1)
    with httpx.Client(base_url=server.url) as http:
        dictate().end()
        task_id = http.post("/api/v2/training/start", json=body).json()["task_id"]
        list(watch(task_id, url=server.url).events())
        other.execute("BEGIN IMMEDIATE")
        answer = http.delete(f"/api/v2/training/{task_id}")

        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert answer.json().keys() == {"detail", "code"}


# --- OpenAPI -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    found = http.get("/openapi.json").json()
    assert isinstance(found, dict)
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, Operation]]:
    return [
        (m.upper(), path, operation) for path, methods in document["paths"].items() for m, operation in methods.items()
    ]


def test_summaries_are_the_change_logs(document: dict[str, Any]) -> None:
    assert document["paths"][STATUS_PATH]["get"]["summary"] == "获取训练任务状态（含详细指标）"
    assert document["paths"][LOGS_PATH]["get"]["summary"] == "获取训练日志流（含详细指标）"


def test_status_description_names_every_field_metric_and_status(document: dict[str, Any]) -> None:
    description = document["paths"][STATUS_PATH]["get"]["description"]

    for name in (*TaskResponse.model_fields, *TrainingMetrics.model_fields, *TaskStatus):
        assert f"`{name}`" in description, name


def test_log_description_names_every_field_and_stage_and_shows_a_client(document: dict[str, Any]) -> None:
    description = document["paths"][LOGS_PATH]["get"]["description"]

    for name in (*DetailedLogEntry.model_fields, *Stage):
        assert f"`{name}`" in description, name
    script = description.partition("```javascript\n")[2].partition("```")[0]
    assert "new EventSource(`/api/v2/training/${taskId}/logs`)" in script
    assert "JSON.parse(event.data)" in script
    assert "Last-Event-ID" in description


def test_every_operation_has_a_summary_a_description_and_a_group(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert len(operation["tags"]) == 1, (method, path)


KEEP_NOTHING = {"/api/v2/parsing/try", "/api/v1/session", "/api/v2/training/check"}
"""Routes beside those that read, which the store has nothing to do with."""


def test_every_operation_documents_its_errors_in_the_one_shape(document: dict[str, Any]) -> None:
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    for method, path, operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        expected = {"403", "413"} if path.startswith("/api/v1/health") else {"401", "403", "413"}
        if "{task_id}" in path:
            expected |= {"404", "422"}
        if method != "GET" and path not in KEEP_NOTHING:
            conflicts = path != "/api/v2/resources" and not path.startswith("/api/v2/alerts")
            expected |= {"409", "503"} if conflicts else {"503"}
        if path == "/metrics" or (path.startswith("/api/v2") and path not in {*KEEP_NOTHING, "/api/v2/models"}):
            expected |= {"503"}  # it asks the store; in a replica, for limits of devices too
        if "requestBody" in operation:
            expected |= {"400"}
        if operation.get("parameters"):
            expected |= {"422"}
        assert expected <= errors.keys(), (method, path, expected - errors.keys())
        assert all(answer["content"] == shape for answer in errors.values()), (method, path)


def test_a_size_that_is_too_large_is_refused_on_every_route_as_documented(
    server: RunningServer, document: dict[str, Any]
) -> None:
    for method, path, operation in operations(document):
        with closing(HTTPConnection(urlsplit(server.url).netloc, timeout=10)) as connection:
            connection.request(method, path.replace("{", "").replace("}", ""), headers={"Content-Length": "9" * 18})
            assert connection.getresponse().status == 413, (method, path)
        assert "413" in operation["responses"], (method, path)


def test_stream_is_documented_as_events_with_an_end(document: dict[str, Any]) -> None:
    operation = document["paths"][LOGS_PATH]["get"]

    schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert schema["properties"].keys() == DetailedLogEntry.model_fields.keys()
    assert "204" in operation["responses"]
    assert {parameter["name"].lower() for parameter in operation["parameters"]} >= {"after", "last-event-id", "metrics"}


def test_example_body_of_start_is_the_change_logs(document: dict[str, Any]) -> None:
    examples = document["components"]["schemas"]["TrainingRequest"]["examples"]

    assert examples[0] == {
        "model": "resnet18",
        "num_classes": 37,
        "train_path": "/data/train",
        "val_path": "/data/val",
        "save_path": "/checkpoints",
        "num_epochs": 10,
        "device": "cuda:0",
    }


def test_every_reference_of_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    found = set(references(document))
    assert found
    for reference in found:
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in target, reference
            target = target[part]
