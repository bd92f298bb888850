"""`GET /api/v2/training/{task_id}/provenance`: what runs were made from, and in what two differ."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app_refactored import create_app
from client import TrainingClient
from services.executors.base import Run
from services.provenance import data
from settings import Settings
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.services.provenance.test_git import run_git

TRAINING = "/api/v2/training"
Serve = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that runs commands."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"), allow_commands=True, max_training_concurrent_cpu=4)
    server = RunningServer(create_app(settings))
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
    server.stop()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A repository with a trainer that was changed since its commit."""
    folder = tmp_path / "code"
    folder.mkdir()
    run_git(folder, "init", "-q")
    (folder / "train.py").write_text("print('loss: 1')\n", encoding="utf-8")
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "-q", "-m", "first")
    (folder / "train.py").write_text("print('loss: 2')\nKEY_TOKEN = 'abcdefgh'\n", encoding="utf-8")
    return folder


def run(http: httpx.Client, task_id: str, **body: Any) -> dict[str, Any]:
    started = http.post(f"{TRAINING}/start", json={"task_id": task_id, **body})
    assert started.status_code == 200, started.text
    with TrainingClient(str(http.base_url), timeout=60) as client:
        client.wait(task_id)
    found: dict[str, Any] = http.get(f"{TRAINING}/{task_id}/provenance").json()
    return found


def test_a_command_with_its_code_its_packages_and_its_request(commands: httpx.Client, code: Path) -> None:
    body = {
        "command": [sys.executable, "train.py", "--seed", "7", "--token", "hunter22"],
        "working_dir": str(code),
        "device": "cpu",
        "priority": 4,
        "env": {"A": "secret-value"},
        "colour": "blue",
    }
    found = run(commands, "one", **body)
    assert found["request"] == {
        **body,
        "task_id": "one",
        "command": [sys.executable, "train.py", "--seed", "7", "--token", "***"],
        "env": {"A": "***"},
    }
    assert found["code"]["commit"] == run_git(code, "rev-parse", "HEAD")
    assert "+print('loss: 2')" in found["code"]["diff"]
    assert found["packages"]["pytest"] == pytest.__version__
    assert found["python"]["executable"] == sys.executable
    assert found["seeds"] == {"seed": "7"}
    assert found["devices"] == [{"device": "cpu"}]
    assert (found["attempt"], "problems" in found) == (1, False)
    text = str(found)
    assert not [secret for secret in ("hunter22", "secret-value", "abcdefgh") if secret in text]


def test_two_tasks_and_in_what_they_differ(commands: httpx.Client, code: Path) -> None:
    body = {"command": [sys.executable, "train.py"], "working_dir": str(code), "device": "cpu"}
    run(commands, "before", **body)
    run_git(code, "commit", "-q", "-a", "-m", "second")
    run(commands, "after", **body, priority=2)
    answer = commands.get(f"{TRAINING}/after/provenance", params={"against": "before"}).json()
    fields = {each["field"]: each["values"] for each in answer["differences"]}
    assert fields.keys() == {"code.commit", "code.diff", "request.priority"}
    assert fields["request.priority"] == {"after": 2}
    assert fields["code.commit"]["after"] == run_git(code, "rev-parse", "HEAD")
    assert fields["code.diff"]["after"] == "none"
    assert answer["against"] == "before"
    nobody = commands.get(f"{TRAINING}/after/provenance", params={"against": "nobody"})
    assert (nobody.status_code, nobody.json()["code"]) == (404, "task_not_found")


def test_the_built_in_trainer_has_data_and_seed(serve: Serve, body: dict[str, Any]) -> None:
    with httpx.Client(base_url=serve().url, timeout=60) as http:
        found = run(http, "built-in", **body, seed=3)
    assert found["data"]["train_path"]["files"] == found["data"]["val_path"]["files"] == 6
    assert found["seeds"] == {"seed": 3}
    assert "torch" in found["packages"]
    assert found["request"] == {**body, "seed": 3, "task_id": "built-in"}


def test_before_the_run_there_is_the_request_alone(
    serve: Serve, body: dict[str, Any], executor: ScriptedExecutor
) -> None:
    executor.hold()
    with httpx.Client(base_url=serve().url, timeout=60) as http:
        http.post(f"{TRAINING}/start", json={**body, "task_id": "runs"})
        http.post(f"{TRAINING}/start", json={**body, "task_id": "waits"})
        answer = http.get(f"{TRAINING}/waits/provenance").json()
        assert answer == {"task_id": "waits", "request": {**body, "task_id": "waits"}}
        assert http.get(f"{TRAINING}/nobody/provenance").status_code == 404
        assert http.get(f"{TRAINING}/waits/provenance", params={"attempt": 1}).json() == answer
        none = http.get(f"{TRAINING}/waits/provenance", params={"attempt": 2})
        assert (none.status_code, none.json()["code"]) == (404, "attempt_not_found")


def test_it_outlasts_the_service_and_each_run_has_its_own(
    serve: Serve, body: dict[str, Any], executor: ScriptedExecutor
) -> None:
    begun = threading.Event()

    def fail(run: Run, *_: object) -> None:
        begun.set()
        raise RuntimeError

    scripted, executor.script = executor.script, fail
    first = serve()
    with httpx.Client(base_url=first.url, timeout=60) as http:
        before = run(http, "resumed", **body)
    assert begun.is_set()
    first.stop()
    executor.script = scripted
    with httpx.Client(base_url=serve().url, timeout=60) as http, TrainingClient(str(http.base_url)) as client:
        assert http.get(f"{TRAINING}/resumed/provenance").json() == before
        client.resume("resumed")
        client.wait("resumed")
        last = http.get(f"{TRAINING}/resumed/provenance").json()
        assert (last["attempt"], last["request"]) == (2, before["request"])
        assert http.get(f"{TRAINING}/resumed/provenance", params={"attempt": 1}).json() == before
        assert http.delete(f"{TRAINING}/resumed").status_code == 200
        again = run(http, "resumed", **{**body, "save_path": body["save_path"] + "2"})
        assert again["attempt"] == 1


def test_a_part_that_fails_fails_neither_the_rest_nor_the_run(
    serve: Serve, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no data today")

    monkeypatch.setattr(data, "fingerprints", fail)
    with httpx.Client(base_url=serve().url, timeout=60) as http:
        found = run(http, "partly", **body)
        assert http.get(f"{TRAINING}/partly").json()["status"] == "completed"
    assert found["problems"] == ["data: ValueError('no data today')"]
    assert found["seeds"] == {"seed": 0}


def test_a_slow_fingerprint_holds_up_neither_the_start_nor_a_stop(
    serve: Serve, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, released = threading.Event(), threading.Event()

    def slow(*_: object, is_cancelled: Callable[[], bool], **__: object) -> dict[str, Any]:
        looking.set()
        while not is_cancelled() and not released.wait(0.01):
            pass
        return {}

    monkeypatch.setattr(data, "fingerprints", slow)
    with httpx.Client(base_url=serve().url, timeout=60) as http, TrainingClient(str(http.base_url)) as client:
        try:
            assert http.post(f"{TRAINING}/start", json={**body, "task_id": "slow"}).json()["status"] == "running"
            assert looking.wait(30)
            assert http.get("/api/v1/health").status_code == 200
            client.stop("slow")
            assert client.wait("slow").status in ("cancelled", "completed")
        finally:
            released.set()


def test_an_imported_log_has_its_file(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "old.log"
    log.write_text("Epoch 1/1\nloss: 0.5\n", encoding="utf-8")
    with httpx.Client(base_url=serve().url, timeout=60) as http:
        assert http.post(f"{TRAINING}/import", json={"path": str(log), "task_id": "old"}).status_code == 200
        found = http.get(f"{TRAINING}/old/provenance").json()
    assert found["data"]["path"]["bytes"] == log.stat().st_size
    assert found["request"] == {"path": str(log), "task_id": "old"}
    assert not {"code", "packages", "host"} & found.keys()


def test_tensorboard_shows_it_beside_the_curves(commands: httpx.Client, code: Path, tmp_path: Path) -> None:
    body = {"command": [sys.executable, "train.py"], "working_dir": str(code), "device": "cpu"}
    run(commands, "on-board", **body)
    answer = commands.get(f"{TRAINING}/on-board/metrics/export", params={"format": "tensorboard"})
    (tmp_path / "events.out.tfevents.x").write_bytes(answer.content)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["train_loss"]
    (text,) = events.Tensors("provenance")
    assert run_git(code, "rev-parse", "HEAD") in text.tensor_proto.string_val[0].decode()
    assert events.SummaryMetadata("provenance").plugin_data.plugin_name == "text"
