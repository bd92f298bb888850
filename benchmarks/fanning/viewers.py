"""Many viewers in one process, which do little: they count lines and how late each one is.

    python -m benchmarks.fanning.viewers URL COUNT

Says `ready` once every stream is open. Counts from one line of its input to the next, then prints
`{"seconds": ..., "fewest": ..., "lost": ..., "delays": {tenths of milliseconds: lines}}`; `fewest` are the lines of the
viewer that got fewest, `lost` those that any viewer did not get though it got a later one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

from api.connections import raise_file_limit
from benchmarks.fanning.ticks import WRITTEN, number_of

AT_A_TIME = 50
"""Connections that are opened together."""


class Count:
    def __init__(self) -> None:
        self.delays: Counter[int] = Counter()
        self.is_on = False


class Viewer(asyncio.Protocol):
    def __init__(self, request: bytes, count: Count) -> None:
        self._request = request
        self._count = count
        self._rest = b""
        self.lines = 0
        self._all_lines = 0
        self._last_number = 0
        self.is_open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.is_open.done():
            assert data.startswith(b"HTTP/1.1 200"), data
            self.is_open.set_result(None)
        now, end = time.monotonic(), 0
        text = self._rest + data if self._rest else data
        for found in WRITTEN.finditer(text):
            end = found.end()
            self._all_lines += 1
            if self._count.is_on:
                self.lines += 1
                self._count.delays[int(10_000 * (now - float(found[1])))] += 1
        if end:
            self._last_number = number_of(text[:end])
        self._rest = text[max(end, len(text) - 64) :]  # the longest time is shorter

    @property
    def lost(self) -> int:
        return self._last_number - self._all_lines

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_open.done():
            self.is_open.set_exception(exc or ConnectionError("the stream was closed"))


async def view(url: str, number: int) -> None:
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    request = f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    loop, count = asyncio.get_running_loop(), Count()
    viewers: list[Viewer] = []

    async def open_one() -> None:
        _, viewer = await loop.create_connection(lambda: Viewer(request, count), host, port)
        viewers.append(viewer)
        await viewer.is_open

    while len(viewers) < number:
        await asyncio.gather(*(open_one() for _ in range(min(AT_A_TIME, number - len(viewers)))))
    print("ready", flush=True)
    await next_line()
    count.is_on = True
    began = time.monotonic()
    await next_line()
    count.is_on = False
    seconds, fewest = time.monotonic() - began, min(viewer.lines for viewer in viewers)
    lost = sum(viewer.lost for viewer in viewers)
    print(json.dumps({"seconds": seconds, "fewest": fewest, "lost": lost, "delays": count.delays}), flush=True)


async def next_line() -> None:
    """Not in a worker thread, which would contend for this process's lock."""
    loop = asyncio.get_running_loop()
    found = loop.create_future()

    def read() -> None:
        sys.stdin.readline()
        loop.remove_reader(sys.stdin)
        found.set_result(None)

    loop.add_reader(sys.stdin, read)
    await found


if __name__ == "__main__":
    raise_file_limit()
    asyncio.run(view(sys.argv[1], int(sys.argv[2])))
