"""Commands and followed files while the service itself is killed, ended and started again."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.service_process import APP, ServiceProcess

TRAINING = "/api/v2/training"
LINES = 300
HELD = 100
"""Here the trainer waits until a test has done what it does to a running one."""
TRAINER = f"""
import pathlib, sys, time
for number in range(1, {LINES + 1}):
    print(f"Epoch [{{number}}/{LINES}] started")
    print(f"Train Loss: {{number}}.5, Train Accuracy: {{number / 10}}%")
    print(f"Dice: {{number}}", file=sys.stderr)
    time.sleep(0.01)
    while number == {HELD} and not pathlib.Path("go on").exists():
        time.sleep(0.01)
"""
DICE = {"metric_definitions": [{"name": "dice", "regex": "Dice: ([0-9.]+)"}]}


@contextmanager
def service(folder: Path, **settings: str) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    with ServiceProcess(APP, folder=folder, ALLOW_COMMANDS="true", **settings) as process:
        process.start()
        with httpx.Client(base_url=process.url, timeout=60) as client:
            yield process, client


def watch(client: httpx.Client, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Lines of the task up to the first that `until` picks."""
    entries = []
    with client.stream("GET", f"{TRAINING}/t/logs") as stream:
        for field in stream.iter_lines():
            if field.startswith("data: "):
                entries.append(json.loads(field[6:]))
                if until(entries[-1]):
                    break
    return entries


def reached(number: int) -> Callable[[dict[str, Any]], bool]:
    return lambda entry: entry["message"] == f"Dice: {number}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TRAINER)
    return tmp_path


def processes_of(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cwd", "cmdline"])
        if process.info["cwd"] == str(folder) and "train.py" in (process.info["cmdline"] or ())
    ]


def test_no_line_of_a_command_is_lost_or_repeated_however_often_the_service_ends(
    folder: Path, store_settings: dict[str, str]
) -> None:
    with service(folder, **store_settings) as (process, client):
        body = {
            "command": [sys.executable, "train.py"],
            "working_dir": str(folder),
            "device": "cpu",
            "task_id": "t",
            "env": {"TOKEN": "hunter2"},
        }
        assert client.post(f"{TRAINING}/start", json=body).status_code == 200
        seen = watch(client, reached(30))
        process.end(signal.SIGKILL)
    with service(folder, **store_settings) as (process, client):
        assert client.get("/api/v1/health").json()["running"] == 1
        assert watch(client, reached(60))[: len(seen)] == seen
        read_again = client.post(f"{TRAINING}/t/reparse", json=DICE).json()
        assert read_again["status"] == "running"
        assert read_again["latest_metrics"]["dice"] >= 60
        (folder / "go on").touch()
        process.end(signal.SIGTERM)
    with service(folder, **store_settings) as (process, client):
        entries = watch(client, lambda entry: "status" in entry)
        status = client.get(f"{TRAINING}/t").json()
        output = "".join(process.output)
    printed = [entry for entry in entries if entry["message"].startswith(("Epoch", "Train Loss", "Dice"))]
    dice = [entry for entry in printed if entry["message"].startswith("Dice")]
    assert [entry["message"] for entry in dice] == [f"Dice: {number}" for number in range(1, LINES + 1)]
    assert [entry["metrics"]["dice"] for entry in dice] == list(range(1, LINES + 1))
    assert len(printed) == 3 * LINES
    losses = [entry["metrics"] for entry in printed if entry["message"].startswith("Train Loss")]
    assert [(each["epoch"], each["train_loss"]) for each in losses] == [(n, n + 0.5) for n in range(1, LINES + 1)]
    assert (status["status"], status["progress"], status["current_epoch"]) == ("completed", 100, LINES)
    assert status["units"] == {"train_acc": "percent"}
    assert processes_of(folder) == []
    assert "hunter2" not in output + json.dumps([entries, status])


def test_a_command_that_is_stopped_while_no_service_runs_to_see_it_ends_when_the_next_one_does(folder: Path) -> None:
    (folder / "train.py").write_text("import time\nprint('Dice: 1', flush=True)\ntime.sleep(300)\n")
    with service(folder) as (process, client):
        body = {"command": [sys.executable, "train.py"], "working_dir": str(folder), "device": "cpu", "task_id": "t"}
        client.post(f"{TRAINING}/start", json=body)
        watch(client, reached(1))
        client.post(f"{TRAINING}/t/stop")
        process.end(signal.SIGKILL)
    with service(folder) as (_process, client):
        last = watch(client, lambda entry: "status" in entry)[-1]
        assert (last["status"], last["reason"]) == ("cancelled", "user_stop")
    assert processes_of(folder) == []
