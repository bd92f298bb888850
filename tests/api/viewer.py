"""A viewer of a log stream on a socket of its own, which a test can cut at any byte.

It reads an event stream as a browser does (WHATWG HTML, 9.2.6 Interpreting an event stream) and shares no
code with the service.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r(?=.))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event."""

    name: str
    id: str
    data: str

    @property
    def number(self) -> int:
        return int(self.id)

    @property
    def entry(self) -> dict[str, Any]:
        decoded = json.loads(self.data)
        assert isinstance(decoded, dict)
        return decoded


class EventStream:
    """Bytes in, events out, in whatever pieces they come. An event without its blank line is never dispatched."""

    def __init__(self) -> None:
        self.retry: str | None = None
        self.comments: list[str] = []
        self._rest = b""
        self._name, self._id, self._data = "message", "", list[str]()

    @property
    def is_mid_event(self) -> bool:
        return bool(self._rest or self._data)

    def feed(self, chunk: bytes) -> list[Event]:
        text, end, events = self._rest + chunk, 0, list[Event]()
        while line := _LINE.match(text, end):
            end = line.end()
            self._take(line[1].decode("utf-8"), events)
        self._rest = text[end:]
        return events

    def _take(self, line: str, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(self._name, self._id, "\n".join(self._data)))
            self._name, self._data = "message", []
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "":
                self.comments.append(value)
            case "event":
                self._name = value
            case "id":
                self._id = value
            case "data":
                self._data.append(value)
            case "retry":
                self.retry = value


class Viewer:
    """One request for a stream, answered when the constructor returns.

    A `stalled` one takes a few lines into its socket and no more, until it is told to `go_on`.
    """

    def __init__(
        self,
        url: str,
        task_id: str,
        *,
        last_event_id: str | int | None = None,
        query: str = "",
        stalled: bool = False,
    ) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._socket = socket.socket()
        if stalled:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        self._socket.settimeout(30)
        self._socket.connect((address.hostname, address.port))
        self._connection = http.client.HTTPConnection(address.hostname, address.port)
        self._connection.sock = self._socket
        headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
        self._connection.request("GET", f"/api/v2/training/{task_id}/logs{query}", headers=headers)
        self._response = self._connection.getresponse()
        self.stream = EventStream()
        self.ended = False
        """The answer is complete, which is more than a closed connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> http.client.HTTPMessage:
        return self._response.headers

    def read(self, limit: int = 65_536) -> bytes:
        """At least one byte and at most `limit`; none once the answer is complete."""
        chunk = self._response.read1(limit)
        self.ended = not chunk
        return chunk

    def read_whole(self) -> bytes:
        return b"".join(iter(self.read, b""))

    def go_on(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def events(self) -> Iterator[Event]:
        """All that the stream brings, until it is complete."""
        while chunk := self.read():
            yield from self.stream.feed(chunk)

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[Event]:
        """Events up to the first whose entry is `wanted`, which must come; what arrived behind it is dropped."""
        seen = []
        for event in self.events():
            seen.append(event)
            if wanted(event.entry):
                return seen
        raise AssertionError(f"the stream ended before that: {seen}")

    def until_message(self, message: str) -> list[Event]:
        return self.until(lambda entry: entry["message"] == message)

    def close(self) -> None:
        self._response.close()
        self._connection.close()
        self._socket.close()

    def cut(self) -> None:
        """Lose the connection as a network does: at once, with a reset, whatever is under way."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
