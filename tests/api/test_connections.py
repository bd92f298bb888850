"""Hundreds of connections that say little or nothing, against a service in a process of its own."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.api.viewer import Viewer
from tests.service_process import ServiceProcess

COUNTING = ("-m", "tests.service_process")


def limited(files: str) -> tuple[str, str]:
    """The service with another limit for its open files: `soft, hard`."""
    program = f"hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; limits = ({files})\n"
    program += "resource.setrlimit(resource.RLIMIT_NOFILE, limits)\n"
    program += "runpy.run_module('tests.service_process', run_name='__main__')"
    return "-c", f"import resource, runpy\n{program}"


LIMITED = limited("200, 200")
"""At most 200 files, so at most 100 connections."""
HUNDREDS = 300
A_FEW = 5
"""Files that the service opens meanwhile for itself: its store's readers, say."""

START = b"POST /api/v2/training/start HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SAYING_LITTLE: dict[str, bytes] = {
    "nothing": b"",
    "half a header": b"GET /api/v1/health HTTP/1.1\r\nHost: local",
    "headers without end": b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "a body that does not come": START + b"Content-Length: 100000\r\n\r\n{",
    "a body that does not come, in chunks": START + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "a body for a route that takes none": b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    "a body that is refused before it comes": START.replace(b"localhost", b"evil") + b"Content-Length: 100000\r\n\r\n{",
}


class Service:
    """A running service and the connections that a test has to it."""

    def __init__(self, process: ServiceProcess, opened: ExitStack) -> None:
        address = urlsplit(process.url)
        self.address = (str(address.hostname), int(address.port or 0))
        self.url = process.url
        self.system = psutil.Process(process.pid)
        self._opened = opened

    def connect(self, first: bytes = b"") -> socket.socket:
        connection = self._opened.enter_context(socket.create_connection(self.address, timeout=60))
        connection.sendall(first)
        return connection

    def ask(self, path: str = "/api/v1/health") -> httpx.Response:
        """On a connection of its own."""
        return httpx.get(self.url + path, timeout=10)

    def wait_for_files(self, most: int) -> None:
        until = time.monotonic() + 30
        while self.system.num_fds() > most:
            assert time.monotonic() < until, f"{self.system.num_fds()} files are open"
            time.sleep(0.01)


Run = Callable[..., Service]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as opened:

        def start(*arguments: str, **environment: str) -> Service:
            process = opened.enter_context(ServiceProcess(*arguments, folder=tmp_path, **environment)).start()
            return Service(process, opened)

        yield start


@pytest.fixture
def task_id(body: dict[str, Any]) -> Callable[[Service], str]:
    """A task that prints a line every few milliseconds."""
    return lambda service: str(httpx.post(f"{service.url}/api/v2/training/start", json=body).json()["task_id"])


def answer_of(connection: socket.socket) -> tuple[int, Any]:
    """Status and JSON of an answer, after which the service has closed the connection."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def is_closed(connection: socket.socket) -> bool:
    """Whether the service has closed it, as far as one can see now."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def send_a_byte_at_a_time(connections: list[socket.socket], ended: threading.Event) -> None:
    """Each ends when the other side does not take any more."""
    while connections and not ended.wait(0.05):
        for connection in list(connections):
            try:
                connection.send(b"a")
            except OSError:
                connections.remove(connection)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that gives a request one second."""
    folder = tmp_path_factory.mktemp("hasty")
    with ExitStack() as opened, ServiceProcess(*COUNTING, folder=folder, REQUEST_TIMEOUT_S="1") as process:
        yield Service(process.start(), opened)


@pytest.mark.parametrize("first", SAYING_LITTLE.values(), ids=SAYING_LITTLE)
def test_who_says_little_is_let_go_and_holds_up_nobody(hasty: Service, first: bytes) -> None:
    service = hasty
    service.ask("/api/v2/training/nobody")
    files = service.system.num_fds()
    crowd = [service.connect(first) for _ in range(HUNDREDS)]
    ended = threading.Event()
    drip = threading.Thread(target=send_a_byte_at_a_time, args=(crowd[: HUNDREDS // 2] if first else [], ended))
    drip.start()

    assert service.ask().status_code == 200
    assert service.ask("/api/v2/training/nobody").status_code == 404
    service.wait_for_files(files + A_FEW)
    ended.set()
    drip.join()
    assert service.ask().status_code == 200


def test_who_is_too_slow_is_told(hasty: Service) -> None:
    silent = hasty.connect()
    for name in ("half a header", "headers without end", "a body that does not come"):
        status, answer = answer_of(hasty.connect(SAYING_LITTLE[name]))
        assert (status, answer["code"]) == (408, "request_timeout"), name
        assert "REQUEST_TIMEOUT_S" in answer["detail"]
    assert silent.recv(1) == b""


def test_a_stream_lasts_longer_than_a_request_may(hasty: Service, task_id: Callable[[Service], str]) -> None:
    with Viewer(hasty.url, task_id(hasty)) as viewer:
        viewer.until_message("line 100")


def test_many_requests_on_one_connection_are_as_good_as_one(hasty: Service) -> None:
    until = time.monotonic() + 1.5
    with httpx.Client(base_url=hasty.url) as http:
        while time.monotonic() < until:
            assert http.get("/api/v1/health").status_code == 200


def test_what_is_no_http_is_answered_in_json(hasty: Service) -> None:
    for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"):
        status, answer = answer_of(hasty.connect(rubbish + b"\r\n\r\n"))
        assert (status, answer["code"]) == (400, "invalid_http")


def test_a_head_without_end_is_refused_at_its_bound(hasty: Service) -> None:
    for part in (b"X-Long: " + b"a" * 70_000, b"X: a\r\n" * 12_000):
        status, answer = answer_of(hasty.connect(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n" + part))
        assert (status, answer["code"]) == (431, "head_too_long")
    whole = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n"
    assert answer_of(hasty.connect(whole))[0] == 431
    assert hasty.ask("/api/v1/health?" + "a" * 60_000).status_code == 200


def test_requests_that_come_together_are_answered_in_turn(hasty: Service) -> None:
    asked = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection = hasty.connect(asked * 20 + asked.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    assert received.count(b"HTTP/1.1 200 OK") == 21


def test_more_connections_than_files_close_those_that_waited_longest(run: Run) -> None:
    service = run(*LIMITED)
    crowd = [service.connect() for _ in range(HUNDREDS)]

    for path in ("/api/v1/health", "/api/v2/training", "/api/v1/health"):
        assert service.ask(path).status_code == 200
    assert service.system.num_fds() <= 200
    assert all(is_closed(each) for each in crowd[:100])
    assert not any(is_closed(each) for each in crowd[-50:])


def test_streams_are_not_closed_for_others_who_are_told_so(run: Run, task_id: Callable[[Service], str]) -> None:
    service = run(*LIMITED)
    task = task_id(service)
    request = f"GET /api/v2/training/{task}/logs HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    streams = [service.connect(request) for _ in range(100)]
    assert all(each.recv(65536).startswith(b"HTTP/1.1 200") for each in streams)

    assert answer_of(service.connect())[0] == 503
    assert answer_of(service.connect())[1]["code"] == "too_many_connections"
    streams.pop().close()
    deadline = time.monotonic() + 15
    while service.ask().status_code == 503:  # until it has noticed
        assert time.monotonic() < deadline
    assert all(each.recv(65536) for each in streams)


def test_a_service_that_can_open_no_file_goes_on_when_it_can(run: Run) -> None:
    service = run(*COUNTING)
    service.ask()
    before = service.system.rlimit(resource.RLIMIT_NOFILE)
    service.system.rlimit(resource.RLIMIT_NOFILE, (service.system.num_fds() + 5, before[1]))
    crowd = [service.connect() for _ in range(30)]
    for connection in crowd:
        connection.close()
    service.system.rlimit(resource.RLIMIT_NOFILE, before)

    assert service.ask().status_code == 200
    assert service.ask("/api/v2/training").status_code == 200


def test_the_service_may_open_as_many_files_as_the_system_lets_it(run: Run) -> None:
    service = run(*limited("128, hard"))

    soft, hard = service.system.rlimit(resource.RLIMIT_NOFILE)
    assert soft > 128 or hard == 128
