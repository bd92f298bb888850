"""Commands, imported logs and other readings of a log, as a client asks for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app_refactored import create_app
from models.schemas import TaskResponse
from settings import Settings
from tests.running_server import RunningServer

TRAINING = "/api/v2/training"
LOG = "Epoch [3/10] started\nTrain Loss: 0.5234, Train Accuracy: 0.8245\nDice: 0.75\n"
DICE = {"metric_definitions": [{"name": "dice", "regex": "Dice: ([0-9.]+)"}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """With the executors of a real service, and leave to run commands."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"), allow_commands=True)
    running = RunningServer(create_app(settings))
    yield running
    running.stop()


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "train.log"
    path.write_text(LOG)
    return str(path)


def last_status(http: httpx.Client, task_id: str) -> dict[str, Any]:
    http.get(f"{TRAINING}/{task_id}/logs")
    answer: dict[str, Any] = http.get(f"{TRAINING}/{task_id}").json()
    return answer


def test_an_imported_log_is_answered_as_completed(http: httpx.Client, log: str) -> None:
    answer = http.post(f"{TRAINING}/import", json={"path": log, **DICE})
    assert answer.status_code == 200
    task = answer.json()
    assert (task["task_type"], task["status"], task["progress"]) == ("import", "completed", 100)
    assert task["latest_metrics"]["dice"] == 0.75
    assert task["units"] == {"train_acc": "fraction"}
    assert http.get(f"{TRAINING}/{task['task_id']}").json() == task
    TaskResponse.model_validate(task)


def test_a_followed_one_at_once(http: httpx.Client, log: str) -> None:
    task = http.post(f"{TRAINING}/import", json={"path": log, "follow": True}).json()
    assert task["status"] == "running"
    assert http.post(f"{TRAINING}/{task['task_id']}/stop").status_code == 200
    assert last_status(http, task["task_id"])["status"] == "cancelled"


def test_an_import_that_takes_too_long_is_answered_as_running(
    http: httpx.Client, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routers.training.IMPORT_WAIT_S", 0)
    task = http.post(f"{TRAINING}/import", json={"path": log}).json()
    assert task["status"] in {"running", "completed"}
    assert last_status(http, task["task_id"])["status"] == "completed"


def test_a_command_runs_and_its_exit_status_is_the_reason(http: httpx.Client, tmp_path: Path) -> None:
    body = {
        "command": [sys.executable, "-c", "print('val_acc: 61.5%'); raise SystemExit(3)"],
        "working_dir": str(tmp_path),
        "env": {"TOKEN": "hunter2"},
        "device": "cpu",
    }
    answer = http.post(f"{TRAINING}/start", json=body)
    assert answer.status_code == 200, answer.text
    task = last_status(http, answer.json()["task_id"])
    assert (task["task_type"], task["status"], task["reason"]) == ("training", "failed", "exit_code_3")
    assert (task["latest_metrics"]["val_acc"], task["units"]) == (61.5, {"val_acc": "percent"})
    logs = http.get(f"{TRAINING}/{task['task_id']}/logs").text
    assert "hunter2" not in answer.text + logs + str(task)


def test_a_log_is_read_again(http: httpx.Client, log: str) -> None:
    task_id = http.post(f"{TRAINING}/import", json={"path": log}).json()["task_id"]
    answer = http.post(f"{TRAINING}/{task_id}/reparse", json=DICE)
    assert answer.status_code == 200
    assert answer.json()["latest_metrics"]["dice"] == 0.75
    assert http.get(f"{TRAINING}/{task_id}").json() == answer.json()
    entries = http.get(f"{TRAINING}/{task_id}/logs/history").json()["entries"]
    assert sum("dice" in entry.get("metrics", {}) for entry in entries) == 1


@pytest.mark.parametrize(
    ("route", "change", "status", "fields"),
    [
        ("import", {"path": "/no/such.log"}, 422, {"path"}),
        ("import", {"path": None}, 422, {"path"}),
        ("import", {"follow": "perhaps"}, 422, {"follow"}),
        ("import", {"log_format": "no_such_format"}, 422, {"log_format"}),
        ("nobody/reparse", {"path": ...}, 404, set()),
        ("nobody/reparse", {"path": ..., "metric_definition": []}, 422, {"metric_definition"}),
    ],
)
def test_what_cannot_be_read_is_refused(
    http: httpx.Client, log: str, route: str, change: dict[str, Any], status: int, fields: set[str]
) -> None:
    body = {name: value for name, value in {"path": log, **change}.items() if value is not ...}
    answer = http.post(f"{TRAINING}/{route}", json=body)
    assert answer.status_code == status, answer.text
    assert {problem["field"] for problem in answer.json().get("errors", [])} == fields


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"command": ["ls"], "executor": "thread"}, {"executor", "working_dir"}),
        ({"command": [], "working_dir": "/"}, {"command"}),
        ({"command": "ls", "working_dir": "/"}, {"command"}),
        ({"command": ["ls", 1], "working_dir": "/"}, {"command.1"}),
        ({"command": ["ls"], "working_dir": "/", "env": {"A": 1}}, {"env.A"}),
        (
            {"model": "resnet18", "executor": "cluster"},
            {"executor", "num_classes", "train_path", "val_path", "save_path"},
        ),
    ],
)
def test_fields_are_named_as_the_request_has_them(http: httpx.Client, body: dict[str, Any], fields: set[str]) -> None:
    answer = http.post(f"{TRAINING}/start", json=body)
    assert answer.status_code == 422
    assert {problem["field"] for problem in answer.json()["errors"]} == fields


def test_without_leave_a_command_is_refused(serve: Callable[..., RunningServer], tmp_path: Path) -> None:
    with httpx.Client(base_url=serve().url) as client:
        answer = client.post(f"{TRAINING}/start", json={"command": ["ls"], "working_dir": str(tmp_path)})
    assert (answer.status_code, answer.json()["code"]) == (403, "commands_disabled")


def test_both_kinds_of_start_are_described(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    schema = described["paths"][f"{TRAINING}/start"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {each["$ref"].rpartition("/")[2] for each in schema["oneOf"]} == {"TrainingRequest", "CommandRequest"}
