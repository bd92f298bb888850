"""What runs and waits on which device, and how much may."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.devices import Gpu
from settings import Settings
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.service_process import ServiceProcess
from tests.services.refusing import locked

RESOURCES = "/api/v2/resources"
TRAINING = "/api/v2/training"
Body = dict[str, Any]


@pytest.fixture
def server_store(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.05)
    return settings.state_dir / "training.db"


@pytest.fixture
def http(serve: Callable[..., RunningServer], executor: ScriptedExecutor) -> Iterator[httpx.Client]:
    """A service whose trainings run until they are stopped, one at a time on each device."""
    executor.hold()
    with httpx.Client(base_url=serve().url, timeout=60) as client:
        yield client


def start(client: httpx.Client, body: Body, *task_ids: str, device: str = "cpu") -> None:
    for task_id in task_ids:
        answer = client.post(f"{TRAINING}/start", json={**body, "task_id": task_id, "device": device})
        assert answer.status_code == 200, answer.text


def stop(client: httpx.Client, task_id: str) -> None:
    """And wait until it has ended: its log does then."""
    client.post(f"{TRAINING}/{task_id}/stop").raise_for_status()
    client.get(f"{TRAINING}/{task_id}/logs").raise_for_status()


def device(answer: httpx.Response, name: str = "cpu") -> Body:
    assert answer.status_code == 200, answer.text
    return next(each for each in answer.json()["devices"] if each["device"] == name)


def set_limits(client: httpx.Client, **limits: int | None) -> httpx.Response:
    return client.post(RESOURCES, json={"limits": limits})


def test_a_device_shows_what_runs_there_and_what_waits_for_it_in_order(http: httpx.Client, body: Body) -> None:
    start(http, body, "a", "b", "c")
    http.patch(f"{TRAINING}/c", json={"priority": 1}).raise_for_status()
    assert http.get(RESOURCES).json() == {
        "devices": [{"device": "cpu", "limit": 1, "default_limit": 1, "running": ["a"], "queued": ["c", "b"]}],
        "queue": {"length": 2, "max_length": 1000},
    }


def test_gpus_are_shown_with_what_their_driver_says(
    serve: Callable[..., RunningServer], executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch, body: Body
) -> None:
    executor.hold()
    gpus = [Gpu("cuda:0", 5, 100, "Accelerator"), Gpu("cuda:1", 7)]
    monkeypatch.setattr("app_refactored.list_gpus", lambda: gpus)
    with httpx.Client(base_url=serve().url, timeout=60) as client:
        start(client, body, "a", "b", device="cuda:0")
        start(client, body, "c", "d", device="cuda")
        assert client.get(RESOURCES).json()["devices"][1:] == [
            {
                "device": "cuda:0",
                "limit": 1,
                "default_limit": 1,
                "running": ["a"],
                "queued": ["b", "d"],
                "model": "Accelerator",
                "memory_total": 100,
                "memory_used": 5,
            },
            {
                "device": "cuda:1",
                "limit": 1,
                "default_limit": 1,
                "running": ["c"],
                "queued": ["d"],
                "memory_used": 7,
            },
        ]
        del gpus[0]
        assert [each["device"] for each in client.get(RESOURCES).json()["devices"]] == ["cpu", "cuda:1", "cuda:0"]


def test_tasks_that_wait_start_at_once_where_there_is_room_now(
    http: httpx.Client, body: Body, executor: ScriptedExecutor
) -> None:
    start(http, body, "a", "b", "c", "d")
    now = device(set_limits(http, cpu=3))
    assert (now["limit"], now["default_limit"]) == (3, 1)
    assert (now["running"], now["queued"]) == (["a", "b", "c"], ["d"])
    assert {http.get(f"{TRAINING}/{task_id}").json()["status"] for task_id in "abc"} == {"running"}


def test_a_device_is_drained_by_zero_and_filled_again_by_null(http: httpx.Client, body: Body) -> None:
    start(http, body, "a", "b")
    assert device(set_limits(http, cpu=0))["running"] == ["a"]
    assert http.get(f"{TRAINING}/a").json()["status"] == "running"
    stop(http, "a")
    start(http, body, "c")
    now = device(http.get(RESOURCES))
    assert (now["running"], now["queued"]) == ([], ["b", "c"])
    now = device(set_limits(http, cpu=None))
    assert (now["limit"], now["running"], now["queued"]) == (1, ["b"], ["c"])


def test_a_lower_limit_stops_nothing(http: httpx.Client, body: Body) -> None:
    set_limits(http, cpu=2)
    start(http, body, "a", "b", "c")
    now = device(set_limits(http, cpu=1))
    assert (now["running"], now["queued"]) == (["a", "b"], ["c"])
    stop(http, "a")
    now = device(http.get(RESOURCES))
    assert (now["running"], now["queued"]) == (["b"], ["c"])


def test_an_unknown_device_is_refused_with_those_there_are_and_nothing_changes(http: httpx.Client) -> None:
    refusal = http.post(RESOURCES, json={"limits": {"cpu": 2, "cuda:7": 1, "file": 1}})
    assert (refusal.status_code, refusal.json()["code"]) == (422, "device_not_found")
    assert [problem["field"] for problem in refusal.json()["errors"]] == ["limits.cuda:7", "limits.file"]
    assert "which has: cpu" in refusal.json()["detail"]
    assert device(http.get(RESOURCES))["limit"] == 1


@pytest.mark.parametrize("limit", [-1, 257, 10**30, 1.5, "many"])
def test_a_limit_that_is_none_is_refused_with_its_field(http: httpx.Client, limit: Any) -> None:
    refusal = set_limits(http, cpu=limit)
    assert (refusal.status_code, refusal.json()["code"]) == (422, "invalid_request")
    assert refusal.json()["errors"][0]["field"] == "limits.cpu"


def test_limits_are_refused_while_the_store_takes_no_writes_but_for_those_that_found_out(
    server_store: Path, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.training_service.WRITE_TIMEOUT_S", 1)
    with locked(server_store):
        assert set_limits(http, cpu=2).status_code == 503
        refusal = set_limits(http, cpu=3)
        assert (refusal.status_code, refusal.json()["code"]) == (503, "storage_unavailable")
        assert device(http.get(RESOURCES))["limit"] == 2
    while http.get("/api/v1/health").json()["storage"] != "ok":
        pass
    with closing(sqlite3.connect(server_store)) as store:
        assert store.execute("SELECT * FROM device_limits").fetchall() == [("cpu", 2)]


def test_limits_survive_kill_9(tmp_path: Path, body: Body) -> None:
    trainer = ("-m", "tests.service_process")
    with ServiceProcess(*trainer, folder=tmp_path) as service:
        service.start()
        with httpx.Client(base_url=service.url, timeout=60) as client:
            set_limits(client, cpu=0).raise_for_status()
            start(client, body, "a", "b")
        service.end(signal.SIGKILL)
    with ServiceProcess(*trainer, folder=tmp_path, MAX_TRAINING_CONCURRENT_CPU="2") as service:
        service.start()
        with httpx.Client(base_url=service.url, timeout=60) as client:
            now = device(client.get(RESOURCES))
            assert (now["limit"], now["default_limit"], now["queued"]) == (0, 2, ["a", "b"])
            set_limits(client, cpu=None).raise_for_status()
            assert device(client.get(RESOURCES))["running"] == ["a", "b"]
