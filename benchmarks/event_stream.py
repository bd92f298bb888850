"""Reading a task's event stream with as little work as a benchmark with hundreds of viewers needs.

No HTTP client in between: it would cost more than the service that is measured, and a viewer that stalls
or is cut off must own its socket.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

OK, NO_CONTENT, NOT_FOUND = 200, 204, 404
SMALL_BUFFER = 4096
"""Bytes that the system takes in for a viewer that is to stall soon."""


class Refused(Exception):
    """The stream was answered with `status`, which is not 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the stream was refused with {status}")
        self.status = status


class Event(NamedTuple):
    """One line of a log: its number in the task, and the entry as JSON gives it."""

    id: int
    entry: dict[str, Any]


class Stream:
    """An open event stream. Iterating ends where the service ends it in order.

    Raises `OSError` or `asyncio.IncompleteReadError` where it is cut off.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def __aiter__(self) -> AsyncIterator[Event]:
        text = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            chunk = await self._reader.readexactly(size + 2)
            *frames, text = (text + chunk[:-2]).split(b"\r\n\r\n")
            for frame in frames:
                if frame.startswith(b"id: "):
                    number, _, data = frame.removeprefix(b"id: ").partition(b"\r\ndata: ")
                    yield Event(int(number), json.loads(data))

    def cut(self) -> None:
        """Drop the connection without a word, as a laptop that is closed does."""
        self._writer.transport.abort()


@asynccontextmanager
async def open_stream(
    url: str, task_id: str, *, after: int = 0, receive_buffer: int | None = None
) -> AsyncIterator[Stream]:
    """The log of a task from line `after` + 1 on.

    Raises:
        Refused: it was not answered by a stream.
        OSError, asyncio.IncompleteReadError: the service is not there, or goes.
    """
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=receive_buffer or 2**16)
    except BaseException:
        connection.close()
        raise
    try:
        head = f"GET /api/v2/training/{task_id}/logs HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
        writer.write(f"{head}Last-Event-ID: {after}\r\n\r\n".encode() if after else f"{head}\r\n".encode())
        status = int((await reader.readuntil(b"\r\n")).split()[1])
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        if status != OK:
            raise Refused(status)
        yield Stream(reader, writer)
    finally:
        writer.transport.abort()
