"""What is asked of a store: each question once, timed from the request to the last byte that it needs."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

from benchmarks.growing.filling import LONG, name_of

PAGE = 200
RESUMED = 100
"""Lines that a viewer has missed."""
WIDE = 2_000
"""Lines among which there is a page of warnings."""
WARNINGS = "&level=WARNING"
SCAN = "its errors, of which there are none"
"""The question that has no answer short of every line of the task."""
ROOT = "/api/v2/training"


@dataclass(frozen=True)
class Sizes:
    """Of a store: its tasks but the long one, the lines of each, and those of the long one."""

    tasks: int
    lines: int
    long_lines: int


class Asker:
    """Asks one service, over a connection that is kept alive, about tasks drawn by chance."""

    def __init__(self, url: str, sizes: Sizes, request: dict[str, Any], live: str) -> None:
        address = urlsplit(url)
        assert address.hostname
        self._address = (address.hostname, address.port)
        self._http = HTTPConnection(*self._address, timeout=60)
        self._sizes = sizes
        self._request = request
        self._live = live
        self._random = random.Random(0)
        self._started: list[str] = []
        page = self._get("?limit=1")
        self._row, _, self._notice = page["event_id"].partition(".")
        self._cursors = self._get(f"?limit={min(200, sizes.tasks // 2)}")["next_cursor"]

    def questions(self) -> dict[str, Callable[[], float]]:
        """By name; each returns its seconds. Asks over a new connection: the server may have closed an idle one."""
        self._http.close()
        return {
            "status of a live task": lambda: self._time(f"/{self._live}"),
            "status of an ended task": lambda: self._time(f"/{self._task()}"),
            f"history, {PAGE} lines": lambda: self._time(self._history(self._task(), self._sizes.lines)),
            "the same of the longest task": lambda: self._time(self._history(LONG, self._sizes.long_lines)),
            "its warnings, a page": lambda: self._time(self._history(LONG, self._sizes.long_lines - WIDE) + WARNINGS),
            SCAN: lambda: self._time(f"/{LONG}/logs/history?level=ERROR"),
            "list, first 50": lambda: self._time("?limit=50"),
            "list, 50 further back": lambda: self._time(f"?limit=50&cursor={self._cursors}"),
            "list, the last failed task": lambda: self._time("?limit=1&status=failed"),
            "start (it waits in the queue)": self._start,
            f"log resumed, {RESUMED} lines": lambda: self._resume(self._task(), self._sizes.lines),
            "its log resumed": lambda: self._resume(LONG, self._sizes.long_lines),
            f"all events resumed, {RESUMED} lines": self._resume_events,
        }

    def tidy(self) -> None:
        """Stop what was started: how long the queue is must not count."""
        self._http.close()
        for task_id in self._started:
            self._post(f"/{task_id}/stop")
        self._started.clear()

    def set_no_training(self) -> None:
        self._ask("POST", "/api/v2/resources", {"limits": {"cpu": 0}})

    def close(self) -> None:
        self._http.close()

    def _task(self) -> str:
        return name_of(self._random.randrange(self._sizes.tasks))

    def _history(self, task_id: str, lines: int) -> str:
        after = self._random.randrange(max(1, lines - PAGE))
        return f"/{task_id}/logs/history?limit={PAGE}&after={after}"

    def _time(self, path: str) -> float:
        began = time.perf_counter()
        self._ask("GET", ROOT + path)
        return time.perf_counter() - began

    def _start(self) -> float:
        began = time.perf_counter()
        answer = self._post("/start", self._request)
        took = time.perf_counter() - began
        self._started.append(answer["task_id"])
        return took

    def _resume(self, task_id: str, lines: int) -> float:
        """From the connection to the end of the stream, which is that of the task."""
        began = time.perf_counter()
        connection, response = self._stream(f"{ROOT}/{task_id}/logs", str(lines - RESUMED))
        frames = response.read().count(b"\ndata: ")
        took = time.perf_counter() - began
        connection.close()
        assert frames == RESUMED, f"{frames} lines of {task_id}"
        return took

    def _resume_events(self) -> float:
        """From the connection to the last line that there was at the beginning."""
        last = f"id: {self._row}.{self._notice}".encode()
        began = time.perf_counter()
        connection, response = self._stream(f"{ROOT}/events", f"{int(self._row) - RESUMED}.{self._notice}")
        while response.readline().strip() != last:
            pass
        took = time.perf_counter() - began
        connection.close()
        return took

    def _stream(self, path: str, last_event_id: str) -> tuple[HTTPConnection, HTTPResponse]:
        connection = HTTPConnection(*self._address, timeout=60)
        connection.request("GET", path, headers={"Last-Event-ID": last_event_id})
        return connection, connection.getresponse()

    def _get(self, path: str) -> Any:
        return json.loads(self._ask("GET", ROOT + path))

    def _post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return json.loads(self._ask("POST", ROOT + quote(path), body))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._http.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._http.getresponse()
        content = response.read()
        assert response.status == 200, f"{method} {path}: {response.status} {content!r}"
        return content
