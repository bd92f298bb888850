"""A load generator in a process of its own, so that it shares neither the lock nor the event loop of what it measures.

    python -m benchmarks.load http://127.0.0.1:8000/api/v1/health --seconds 5 [--connections 8] [--rate 100]

Connections are kept alive, and the client does little besides reading: on two cores whatever it takes is missing in
the server. Without `--rate` each connection asks again as soon as it is answered: the most requests a second. With it,
one connection asks at fixed times, or as soon after as the answer before is there, and a delay counts from the time at
which the request was to begin: a server that stalls is not asked less for it. That takes a blocking socket and no event
loop, some 50 us a request. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.figures import percentile

REPOSITORY = Path(__file__).resolve().parents[1]
OK = b"HTTP/1.1 200"


@dataclass
class Load:
    """What came of it. Delays in milliseconds."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    worst: float = 0.0

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


@dataclass
class Running:
    """A load that goes on until the `with` block ends; then `result` is there."""

    result: Load = field(default_factory=Load)


def load(url: str, seconds: float, *, connections: int = 8, rate: float | None = None) -> Load:
    """Load `url` for so long."""
    command = _command(url, connections, rate)
    return _read(subprocess.check_output([*command, "--seconds", str(seconds)], cwd=REPOSITORY, text=True))


@contextmanager
def loading(url: str, *, connections: int = 8, rate: float | None = None) -> Iterator[Running]:
    """Load `url` while the context is open."""
    running = Running()
    with subprocess.Popen(
        _command(url, connections, rate), cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield running
        finally:
            output, _ = process.communicate("")  # the end of its input ends it
        running.result = _read(output)


def _command(url: str, connections: int, rate: float | None) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.load", url, "--connections", str(connections)]
    return command if rate is None else [*command, "--rate", str(rate)]


def _read(output: str) -> Load:
    found = Load(**json.loads(output))
    assert found.requests, "nothing was answered"
    assert not found.failed, f"{found.failed} of {found.requests} requests failed"
    return found


class Connection(asyncio.Protocol):
    """One connection, kept alive: a request at a time."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = b""
        self._size: int | None = None
        self._done: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self) -> bool:
        """Whether the answer was 200."""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        return await self._done

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._size is None:
            self._size = size_of(self._answer)
        if self._size is not None and len(self._answer) >= self._size:
            is_good = self._answer.startswith(OK)
            self._answer, self._size = b"", None
            self._end(is_good)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's own)
        self._end(False)

    def _end(self, is_good: bool) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(is_good)

    def close(self) -> None:
        self._transport.abort()


class Generator:
    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        self._host, self._port = address.hostname, address.port
        path = address.path + (f"?{address.query}" if address.query else "")
        self._request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
        self._delays: list[float] = []
        self._failed = 0

    async def run(self, connections: int, ended: asyncio.Event) -> Load:
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(connections):
            free.put_nowait(await self._open())
        began = time.perf_counter()
        await asyncio.gather(*(self._without_pause(free, ended) for _ in range(connections)))
        seconds = time.perf_counter() - began
        while not free.empty():
            free.get_nowait().close()
        return summed_up(self._delays, self._failed, seconds)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._request), self._host, self._port)
        return connection

    async def _without_pause(self, free: asyncio.Queue[Connection], ended: asyncio.Event) -> None:
        while not ended.is_set():
            await self._one(free, time.perf_counter())

    async def _one(self, free: asyncio.Queue[Connection], due: float) -> None:
        """Ask over the next free connection; one that failed is replaced."""
        connection = await free.get()
        if not await self._timed(connection, due):
            connection.close()
            connection = await self._open()
        free.put_nowait(connection)

    async def _timed(self, connection: Connection, began: float) -> bool:
        is_good = await connection.ask()
        self._delays.append(time.perf_counter() - began)
        self._failed += not is_good
        return is_good


def summed_up(delays_s: list[float], failed: int, seconds: float) -> Load:
    delays = [1000 * delay for delay in delays_s] or [0.0]
    p50, p99, worst = (percentile(delays, percent) for percent in (50, 99, 100))
    return Load(len(delays_s), failed, seconds, p50, p99, worst)


def at_fixed_times(url: str, rate: float, seconds: float | None) -> Load:
    """Ask until so long has passed, or this program's input has ended."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    path = address.path + (f"?{address.query}" if address.query else "")
    request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    delays, failed = [], 0
    with socket.create_connection((address.hostname, address.port)) as connection:
        began = time.perf_counter()
        for number in itertools.count():
            due = began + number / rate
            if seconds is not None and due >= began + seconds:
                break
            if has_ended(due - time.perf_counter(), listens=seconds is None):
                break
            connection.sendall(request)
            failed += not read_answer(connection)
            delays.append(time.perf_counter() - due)
        return summed_up(delays, failed, time.perf_counter() - began)


def has_ended(wait_s: float, *, listens: bool) -> bool:
    """Wait so long, or until the end of this program's input."""
    return bool(select.select([sys.stdin] if listens else [], [], [], max(0.0, wait_s))[0])


def read_answer(sock: socket.socket) -> bool:
    """Whether the answer was 200."""
    answer = sock.recv(65_536)
    while (size := size_of(answer)) is None or len(answer) < size:
        more = sock.recv(65_536)
        if not more:
            return False
        answer += more
    return answer.startswith(OK)


def size_of(answer: bytes) -> int | None:
    """Of the whole answer, by its head; `None` before that is there."""
    head, separator, _ = answer.partition(b"\r\n\r\n")
    if not separator:
        return None
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return len(head) + 4 + int(length.partition(b":")[2])


async def without_pause(url: str, connections: int, seconds: float | None) -> Load:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    if seconds is None:

        def look() -> None:
            if not sys.stdin.read(1):
                ended.set()

        loop.add_reader(sys.stdin, look)
    else:
        loop.call_later(seconds, ended.set)
    return await Generator(url).run(connections, ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, help="default: until the standard input ends")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, help="requests a second; default: as many as are answered")
    given = parser.parse_args()
    if given.rate is None:
        found = asyncio.run(without_pause(given.url, given.connections, given.seconds))
    else:
        found = at_fixed_times(given.url, given.rate, given.seconds)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
