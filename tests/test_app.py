"""The application as a whole: its route table, its import, and its life as a process."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

import api.routers
from app_refactored import build_service, main
from models.schemas import TaskStatus
from services.storage.database import Database
from services.storage.store import Store
from settings import Settings
from tests.api.viewer import Event, Viewer
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.service_process import APP, REPOSITORY, ServiceProcess

COUNTING = ("-m", "tests.service_process")


# --- Route table -------------------------------------------------------------------------------------------------


def routes_of_the_code() -> dict[str, str]:
    """`METHOD path` and summary of every route of every module in `api.routers`."""
    return {
        f"{method} {route.path}": str(route.summary)
        for module in iter_modules(api.routers.__path__)
        if module.name != "dashboard"  # a page for people
        for route in import_module(f"api.routers.{module.name}").router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def test_root_lists_every_route_there_is_and_no_other(server: RunningServer) -> None:
    endpoints = httpx.get(server.url).json()["endpoints"]
    listed = {route: summary for group in endpoints.values() for summary, route in group.items()}

    assert listed == routes_of_the_code() | {"GET /": "接口列表"}


def test_root_describes_trainings_in_the_documents_words(server: RunningServer) -> None:
    endpoints = httpx.get(server.url).json()["endpoints"]

    trainings = endpoints["训练接口"]
    assert trainings["获取训练任务状态（含详细指标）"] == "GET /api/v2/training/{task_id}"
    assert trainings["获取训练日志流（含详细指标）"] == "GET /api/v2/training/{task_id}/logs"
    assert "POST /api/v2/training/start" in trainings.values()
    assert not any("增强" in group for group in endpoints)


def test_every_listed_route_answers(server: RunningServer) -> None:
    with httpx.Client(base_url=server.url) as http:
        for group in http.get("/").json()["endpoints"].values():
            for route in group.values():
                method, _, path = route.partition(" ")
                path = re.sub(r"\{\w+_id\}", "nobody", path).replace("{name}", "none")
                if path.endswith("/events"):
                    path += "?types=none"  # it would never end
                answer = http.request(method, path)
                assert answer.status_code < 500
                if answer.headers["content-type"] != "application/json":
                    continue
                assert answer.json().get("code") not in {"not_found", "method_not_allowed"}, route


def test_interactive_documentation_is_where_root_says(server: RunningServer) -> None:
    with httpx.Client(base_url=server.url) as http:
        answer = http.get(http.get("/").json()["docs"])

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


# --- Import ------------------------------------------------------------------------------------------------------


def test_importing_the_application_starts_nothing_and_brings_no_torch(tmp_path: Path) -> None:
    """Workers that are forked from a server import it again."""
    program = """
import json, os, sys, threading
import app_refactored
links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if int(name) > 2
         and os.path.lexists(f"/proc/self/fd/{name}")]
print(json.dumps({
    "threads": threading.active_count(),
    "files": os.listdir("."),
    "sockets": [link for link in links if link.startswith("socket:")],
    "torch": [name for name in sys.modules if name.partition(".")[0] in {"torch", "torchvision", "alembic", "ray"}],
}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert json.loads(done.stdout) == {"threads": 1, "files": [], "sockets": [], "torch": []}
    assert done.stderr == ""


# --- Process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [(APP,), ("-m", "uvicorn", "app_refactored:app", "--port", "0")], ids=["python", "uvicorn"]
)
def test_requests_are_answered_without_torch(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with ServiceProcess(*arguments, folder=tmp_path).start() as service:
        with httpx.Client(base_url=service.url) as http:
            for path in ("/api/v1/health", "/api/v2/models", "/api/v2/training", "/", "/openapi.json"):
                assert http.get(path).status_code == 200
        assert "libtorch" not in Path(f"/proc/{service.pid}/maps").read_text()
        assert (tmp_path / "state" / "training.db").exists()


def test_nobody_else_on_this_machine_can_read_the_state(tmp_path: Path, executor: ScriptedExecutor) -> None:
    made, there_before = tmp_path / "made", tmp_path / "there_before"
    there_before.mkdir(mode=0o755)
    for state in (made, there_before, there_before):
        build_service(Settings(state_dir=state), executor).close()

    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE(there_before.stat().st_mode) == 0o755  # it may be anybody's
    kept = list(there_before.iterdir())
    assert {path.name for path in kept} >= {"training.db", "runs"}
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in kept)


def test_ctrl_c_ends_an_idle_service_without_a_traceback(tmp_path: Path) -> None:
    with ServiceProcess(APP, folder=tmp_path).start() as service:
        assert service.end(signal.SIGINT, within_s=5) == 0
        assert "Traceback" not in "".join(service.output)


BAD_SETTINGS = {
    "no number": ({"PORT": "http"}, "PORT: "),
    "beyond its bounds": ({"MAX_TRAINING_CONCURRENT_CPU": "0"}, "MAX_TRAINING_CONCURRENT_CPU: "),
    "none of the choices": ({"SQLITE_SYNCHRONOUS": "sometimes"}, "SQLITE_SYNCHRONOUS: "),
    "no URL of a store": ({"DATABASE_URL": "hush:hush@host/name"}, "DATABASE_URL: "),
    "unsafe": ({"HOST": "0.0.0.0", "API_TOKENS": "hush-hush"}, "HOST=0.0.0.0 "),
}


@pytest.mark.parametrize(("environment", "begin"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings_end_with_one_line_that_names_them(
    environment: dict[str, str], begin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main() == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(begin)
    assert said.err.count("\n") == 1
    assert "hush" not in said.err


def test_a_process_with_bad_settings_says_what_to_set_and_leaves_nothing(tmp_path: Path) -> None:
    with ServiceProcess(APP, folder=tmp_path, HOST="0.0.0.0", API_TOKENS="hush-hush") as service:
        assert service.end() == 2
        assert len(service.output) == 1
        assert "set DATA_ROOTS, SAVE_ROOTS first" in service.output[0]
    assert list(tmp_path.iterdir()) == []


def test_a_second_service_on_one_store_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with ServiceProcess(APP, folder=tmp_path).start() as first, ServiceProcess(APP, folder=tmp_path) as second:
        assert second.end() > 0
        output = "".join(second.output)
        assert "Another service process is using the store" in output
        assert "STATE_DIR" in output
        assert httpx.get(f"{first.url}/api/v1/health").json()["status"] == "ok"
        assert first.end(signal.SIGTERM) == 0


def test_a_port_in_use_is_said(tmp_path: Path, server: RunningServer) -> None:
    with ServiceProcess(APP, folder=tmp_path, PORT=str(server.port), STATE_DIR="other") as service:
        assert service.end() > 0
        assert "address already in use" in "".join(service.output)


# --- Ending in the middle of it ----------------------------------------------------------------------------------


def follow_until_cut(viewer: Viewer) -> list[Event]:
    seen: list[Event] = []
    with suppress(HTTPException, OSError):
        for event in viewer.events():
            seen.append(event)  # noqa: PERF402 (keeps what came before the cut)
    return seen


def stored_lines(state_dir: Path, task_id: str) -> tuple[dict[int, str], Any]:
    database = Database(Settings(state_dir=state_dir).store_url)
    try:
        store = Store(database)
        return {entry.seq: entry.message for entry in store.read_entries(task_id)}, store.get_task(task_id)
    finally:
        database.close()


def start(http: httpx.Client, body: dict[str, Any]) -> str:
    return str(http.post("/api/v2/training/start", json=body).raise_for_status().json()["task_id"])


def watch_until(service: ServiceProcess, task_id: str, *, viewers: int, end: Callable[[], None]) -> list[list[Event]]:
    """What each viewer of a running task has seen when `end` has ended the service."""
    streams = [Viewer(service.url, task_id) for _ in range(viewers)]
    with ThreadPoolExecutor(viewers) as pool:
        following = [pool.submit(follow_until_cut, stream) for stream in streams]
        with Viewer(service.url, task_id) as one_more:
            one_more.until_message("line 20")
        end()
        seen = [each.result() for each in following]
    for stream in streams:
        stream.close()
    return seen


def test_sigterm_ends_a_training_and_a_hundred_streams_in_time_and_keeps_every_line(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    with ServiceProcess(*COUNTING, folder=tmp_path).start() as service:
        with httpx.Client(base_url=service.url) as http:
            running, waiting = start(http, body), start(http, body)

        def end() -> None:
            begin = time.monotonic()
            assert service.end(signal.SIGTERM, within_s=30) == 0
            assert time.monotonic() - begin < 5

        seen = watch_until(service, running, viewers=100, end=end)
        assert not any("ERROR" in line for line in service.output), "an orderly end is no error"

    stored, task = stored_lines(tmp_path / "state", running)
    assert (task.status, task.reason) == (TaskStatus.QUEUED, "interrupted")
    assert list(stored) == list(range(1, len(stored) + 1))
    assert "It goes on at its last checkpoint" in stored[len(stored)]
    for events in seen:
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert len(events) >= 20
        assert all(stored[event.number] == event.entry["message"] for event in events)
    assert stored_lines(tmp_path / "state", waiting)[1].status is TaskStatus.QUEUED


def test_what_a_viewer_has_seen_survives_a_kill(tmp_path: Path, body: dict[str, Any]) -> None:
    with ServiceProcess(*COUNTING, folder=tmp_path).start() as service:
        with httpx.Client(base_url=service.url) as http:
            task_id = start(http, body | {"max_restarts": 0})

        def kill() -> None:
            assert service.end(signal.SIGKILL) == -signal.SIGKILL

        seen = watch_until(service, task_id, viewers=5, end=kill)

    with ServiceProcess(*COUNTING, folder=tmp_path).start() as service:
        for events in seen:
            assert len(events) >= 20
            with Viewer(service.url, task_id, last_event_id=events[-1].number) as viewer:
                whole = [*events, *viewer.events()]
            assert [event.number for event in whole] == list(range(1, len(whole) + 1))
            counted = [event.entry["message"] for event in whole if event.entry["message"].startswith("line ")]
            assert counted == [f"line {number}" for number in range(1, len(counted) + 1)]
            assert (whole[-1].entry["status"], whole[-1].entry["reason"]) == ("failed", "interrupted")
