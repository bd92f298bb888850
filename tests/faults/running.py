"""The real service as a process of its own, and what a test asks of it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from tests.service_process import APP, ServiceProcess

TRAINING = "/api/v2/training"
TIMEOUT_S = 30
Seen = TypeVar("Seen")


class Running:
    """A service and a client of it."""

    def __init__(self, process: ServiceProcess, http: httpx.Client, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.http = http

    @property
    def said(self) -> str:
        return "".join(self.process.output)

    def run(self, task_id: str, code: str, folder: Path, **fields: Any) -> httpx.Response:
        """Start Python code as a command."""
        body = {
            "command": [sys.executable, "-u", "-c", code],
            "working_dir": str(folder),
            "device": "cpu",
            "task_id": task_id,
        }
        return self.http.post(f"{TRAINING}/start", json=body | fields)

    def status(self, task_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get(f"{TRAINING}/{task_id}").raise_for_status().json()
        return answer

    def stop(self, task_id: str) -> httpx.Response:
        return self.http.post(f"{TRAINING}/{task_id}/stop")

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/api/v1/health").raise_for_status().json()
        return answer

    def lines(self, task_id: str) -> list[tuple[int, str]]:
        """Every stored line, by number."""
        found: list[tuple[int, str]] = []
        while True:
            page = self.http.get(
                f"{TRAINING}/{task_id}/logs/history",
                params={"limit": 1000, "after": found[-1][0] if found else 0},
            ).raise_for_status()
            found += [(entry["id"], entry["message"]) for entry in page.json()["entries"]]
            if "next_after" not in page.json():
                return found

    def ended(self, task_id: str) -> dict[str, Any]:
        return until(lambda: self.status(task_id), lambda task: task["status"] in ("completed", "failed", "cancelled"))

    def degraded(self) -> dict[str, Any]:
        return until(self.health, lambda health: health["status"] == "degraded")

    def well(self) -> dict[str, Any]:
        return until(self.health, lambda health: health["status"] == "ok")


def processes_below(folder: Path) -> list[psutil.Process]:
    """Every living process of the tasks that have their folder below it, supervisors included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            run_dir = process.environ().get("TRAINING_RUN_DIR", "")
            if run_dir and Path(run_dir).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def trainers(run_dir: Path) -> list[psutil.Process]:
    """What runs of a task, without its supervisor."""
    found = []
    for process in processes_below(run_dir):
        with suppress(psutil.Error):
            if "-I" not in process.cmdline():
                found.append(process)
    return found


@contextmanager
def service(folder: Path, **environment: str) -> Iterator[Running]:
    """The service in `folder`, which may run commands; eight at a time."""
    settings = {"ALLOW_COMMANDS": "true", "MAX_TRAINING_CONCURRENT_CPU": "8", "STOP_GRACE_S": "2"}
    with ServiceProcess(APP, folder=folder, **settings | environment) as process:
        process.start()
        with httpx.Client(base_url=process.url, timeout=TIMEOUT_S) as http:
            try:
                yield Running(process, http, folder)
            except BaseException:  # a test has failed, and nobody else would end them
                process.end(signal.SIGKILL)
                for left in processes_below(folder):
                    left.kill()
                raise


def refusal(folder: Path, **environment: str) -> tuple[int, list[str]]:
    """How a service ends that cannot start: its exit status, and the lines on its stderr that uvicorn did not write."""
    with ServiceProcess(APP, folder=folder, **environment) as process:
        status = process.end(within_s=TIMEOUT_S)
        said = [line.strip() for line in process.output]
    return status, [line.removeprefix("ERROR:").strip() for line in said if not line.startswith(_UVICORN)]


_UVICORN = ("INFO:", "ERROR:    Application startup failed.")


def until(look: Callable[[], Seen], is_so: Callable[[Seen], bool], timeout_s: float = TIMEOUT_S) -> Seen:
    """Look again and again until it is so: for what has no event to wait for."""
    deadline = time.monotonic() + timeout_s
    while not is_so(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    return seen
