"""Two real services on one PostgreSQL store, while the one that owns it is killed, or stopped for too long."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.running_postgres import RunningPostgres
from tests.service_process import APP, ServiceProcess
from tests.stores import PostgresStore, execute
from tests.test_survival import processes_of

TRAINING = "/api/v2/training"
LINES = 60
HELD = 30
"""Here the trainer waits until a test lets it go on."""
TRAINER = f"""
import os, pathlib, time
with open("begun", "a") as file:
    print(os.getpid(), file=file)
for number in range(1, {LINES + 1}):
    print(f"Dice: {{number}}", flush=True)
    time.sleep(0.01)
    while number == {HELD} and not pathlib.Path("go on").exists():
        time.sleep(0.01)
"""
WAIT_S = 60


class Seen(NamedTuple):
    id: int
    entry: dict[str, Any]


class Viewer:
    """Follows a task to its last line, at whichever of these services answers, and resumes as browsers do."""

    def __init__(self, *urls: str) -> None:
        self._urls = urls
        self.seen: list[Seen] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for url in self._urls:
                with suppress(httpx.HTTPError):
                    self._follow(url)
                if self.seen and "status" in self.seen[-1].entry:
                    return
            time.sleep(0.05)

    def _follow(self, url: str) -> None:
        headers = {"Last-Event-ID": str(self.seen[-1].id)} if self.seen else {}
        number = 0
        with httpx.stream("GET", f"{url}{TRAINING}/t/logs", headers=headers, timeout=5) as stream:
            for field in stream.iter_lines():
                if field.startswith("id: "):
                    number = int(field[4:])
                elif field.startswith("data: "):
                    self.seen.append(Seen(number, json.loads(field[6:])))

    def to_the_end(self) -> list[Seen]:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.seen


@pytest.fixture
def store(postgres: RunningPostgres) -> PostgresStore:
    return PostgresStore(postgres)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TRAINER)
    return tmp_path


@contextmanager
def service(
    folder: Path, store: PostgresStore, *, program: tuple[str, ...] = (APP,), **settings: str
) -> Iterator[ServiceProcess]:
    url = store.url.render_as_string(hide_password=False)
    environment = {"ALLOW_COMMANDS": "true", "DATABASE_URL": url, "LEASE_SECONDS": "1.5", **settings}
    with ServiceProcess(*program, folder=folder, **environment) as process:
        yield process.start()


def health(process: ServiceProcess) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{process.url}/api/v1/health", timeout=30).json()
    return answer


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def start(process: ServiceProcess, folder: Path, task_id: str = "t", **changes: Any) -> httpx.Response:
    command = [sys.executable, "train.py"]
    body = {"command": command, "working_dir": str(folder), "device": "cpu", "task_id": task_id, **changes}
    return httpx.post(f"{process.url}{TRAINING}/start", json=body, timeout=30)


def page(process: ServiceProcess, query: str) -> list[dict[str, Any]]:
    """Lines of the task."""
    answer = httpx.get(f"{process.url}{TRAINING}/t/logs/history?{query or 'limit=1000'}", timeout=30)
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries


def last_line(process: ServiceProcess) -> dict[str, Any]:
    return page(process, "before=1000000&limit=1")[-1]


def says(process: ServiceProcess, number: int) -> bool:
    return any(entry["message"] == f"Dice: {number}" for entry in page(process, f"contains=Dice: {number}"))


def assert_every_line_once(seen: list[Seen]) -> None:
    assert [each.id for each in seen] == list(range(1, len(seen) + 1))
    dice = [each.entry["message"] for each in seen if each.entry["message"].startswith("Dice")]
    assert dice == [f"Dice: {number}" for number in range(1, LINES + 1)]
    assert seen[-1].entry["status"] == "completed"


def test_a_replica_adopts_what_runs_when_the_owner_is_killed_and_viewers_miss_nothing(
    folder: Path, store: PostgresStore
) -> None:
    with service(folder, store, PUBLIC_URL="http://owner.example") as owner, service(folder, store) as replica:
        assert (health(owner)["role"], health(replica)["role"]) == ("owner", "replica")
        assert start(owner, folder).status_code == 200
        assert start(owner, folder, "waits").json()["status"] in ("pending", "queued")
        viewers = [Viewer(owner.url, replica.url), Viewer(replica.url)]
        wait(lambda: says(replica, HELD), "the replica shows no line")
        both = (owner.url, replica.url)
        wait(lambda: len({httpx.get(f"{url}{TRAINING}/t").text for url in both}) == 1, "they say different things")
        assert httpx.get(f"{replica.url}{TRAINING}/t").json()["status"] == "running"
        assert httpx.get(f"{replica.url}{TRAINING}/waits").json()["queue_position"] == 1
        assert (health(replica)["running"], health(replica)["queued"]) == (1, 1)

        refused = httpx.post(f"{replica.url}{TRAINING}/t/stop")
        assert (refused.status_code, refused.json()["code"]) == (503, "read_replica")
        assert "http://owner.example" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        told = httpx.get(f"{replica.url}/metrics").text
        assert 'training_http_requests_total{method="POST",route="(refused)",status="503"} 1.0' in told
        assert "training_tasks" in httpx.get(f"{owner.url}/metrics").text
        assert "training_tasks" not in told  # or a sum over all services would count each task twice

        owner.end(signal.SIGKILL)
        wait(lambda: health(replica)["role"] == "owner", "nobody took over")
        (folder / "go on").touch()
        for viewer in viewers:
            assert_every_line_once(viewer.to_the_end())
        wait(lambda: httpx.get(f"{replica.url}{TRAINING}/waits").json()["status"] == "completed", "it waits for ever")
        assert len((folder / "begun").read_text().split()) == 2
        assert start(replica, folder, "another").status_code == 200
        wait(lambda: not processes_of(folder), "something still runs")


def test_an_owner_that_was_stopped_for_too_long_becomes_a_replica_and_kills_nothing(
    folder: Path, store: PostgresStore
) -> None:
    with service(folder, store) as first, service(folder, store) as second:
        start(first, folder)
        wait(lambda: says(first, HELD), "it does not begin")
        viewer = Viewer(second.url)
        os.kill(first.pid, signal.SIGSTOP)
        wait(lambda: health(second)["role"] == "owner", "nobody took over")
        os.kill(first.pid, signal.SIGCONT)
        wait(lambda: any("Starting again, as a read replica" in line for line in first.output), "it did not step down")
        first.start()  # it listens again, elsewhere
        assert health(first)["role"] == "replica"
        assert len(processes_of(folder)) == 1
        (folder / "go on").touch()
        assert_every_line_once(viewer.to_the_end())
        late = Viewer(first.url)
        assert late.to_the_end() == viewer.seen
        assert len((folder / "begun").read_text().split()) == 1


def test_a_training_in_a_thread_of_a_stopped_owner_goes_on_elsewhere_and_only_there(
    folder: Path, store: PostgresStore, body: dict[str, Any]
) -> None:
    with (
        service(folder, store, program=("-m", "tests.service_process")) as first,
        service(folder, store, program=("-m", "tests.service_process")) as second,
    ):
        httpx.post(f"{first.url}{TRAINING}/start", json={**body, "task_id": "t"}, timeout=30).raise_for_status()
        wait(lambda: last_line(second)["id"] > 10, "it does not begin")
        os.kill(first.pid, signal.SIGSTOP)
        wait(lambda: last_line(second).get("attempt") == 2, "it does not go on")
        os.kill(first.pid, signal.SIGCONT)
        wait(lambda: any("Starting again, as a read replica" in line for line in first.output), "it did not step down")
        reached = last_line(second)["id"]
        wait(lambda: last_line(second)["id"] > reached + 10, "it stands still")
        attempts = [entry.get("attempt", 1) for entry in page(second, "")]
        assert attempts == sorted(attempts)
        numbers = [entry["message"] for entry in page(second, "") if entry.get("attempt") == 2]
        printed = [message for message in numbers if message.startswith("line ")]
        assert printed == [f"line {number}" for number in range(1, len(printed) + 1)]


def test_a_process_of_another_machine_is_left_alone(folder: Path, store: PostgresStore) -> None:
    """As seen by the service that comes after it: the folder in which its trainer is followed is not there."""
    with service(folder, store, STATE_DIR="one") as first:
        start(first, folder)
        wait(lambda: says(first, HELD), "it does not begin")
        first.end(signal.SIGKILL)
    with service(folder, store, STATE_DIR="two") as second:
        wait(lambda: health(second)["role"] == "owner", "nobody took over")
        status = httpx.get(f"{second.url}{TRAINING}/t").json()
        assert (status["status"], status["reason"]) == ("failed", "machine_lost")
        assert len(processes_of(folder)) == 1
        (folder / "go on").touch()
        wait(lambda: not processes_of(folder), "it was held")


def test_a_process_that_had_not_begun_yet_begins_with_the_service_that_comes_after(
    folder: Path, store: PostgresStore
) -> None:
    """Killed while it recorded what the run is made from, the first service has left nothing on its machine."""
    slow = folder / "slow"
    slow.mkdir()
    (slow / "git").write_text(f"#!/bin/sh\ntouch '{folder}/asked'\nexec sleep 60\n")
    (slow / "git").chmod(0o755)
    with service(folder, store, STATE_DIR="one", PATH=f"{slow}{os.pathsep}{os.environ['PATH']}") as first:
        start(first, folder)
        wait((folder / "asked").exists, "no record is made")
        assert httpx.get(f"{first.url}{TRAINING}/t").json()["status"] == "running"
        first.end(signal.SIGKILL)
    (folder / "go on").touch()
    with service(folder, store, STATE_DIR="two") as second:
        viewer = Viewer(second.url)
        assert viewer.to_the_end()[-1].entry["status"] == "completed"
    assert len((folder / "begun").read_text().split()) == 1


def test_a_server_that_is_gone_for_a_while_changes_no_owner(folder: Path, store: PostgresStore) -> None:
    with service(folder, store) as first, service(folder, store) as second:
        with store.refusing_writes():
            time.sleep(2)  # longer than the lease
        execute(store.url, "SELECT 1")
        wait(lambda: health(first)["storage"] == health(second)["storage"] == "ok", "the server is not found again")
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert (health(first)["role"], health(second)["role"]) == ("owner", "replica")
            time.sleep(0.1)
