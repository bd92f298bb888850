"""Connections that say little must not starve those that ask.

uvicorn gives a request all the time and, with httptools, all the room in the world: a connection that is opened and
says nothing, sends its headers a byte at a time, or announces a body that never comes, is held for ever, and each
holds a file descriptor. Here a request has a deadline to arrive by, and its head a bound, and where too many
connections are open, the one that has waited longest without asking anything is closed for the new one.
"""

from __future__ import annotations

import asyncio
import resource
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from models.schemas import ErrorResponse

MOST_FILES = 65_536
MOST_CONNECTIONS = 10_000
MOST_HEAD = 65_536
"""Bytes of a request's first line and headers together."""

TOO_SLOW = (408, "The request did not arrive in time: send it faster, or see REQUEST_TIMEOUT_S.", "request_timeout")
TOO_MANY = (503, "Too many connections are open: close some streams, then try again.", "too_many_connections")
TOO_LONG = (431, "The URL and headers of a request may have 64 KiB together: send less.", "head_too_long")
NO_HTTP = (400, "This is no HTTP request.", "invalid_http")


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `bounded_protocol` makes the class for a server.

    Attributes:
        waiting: the server's connections whose request has not arrived, the longest waiting one first, each with
            the timer of its deadline. One whose last answer is still on its way out is among them.
    """

    request_timeout_s: ClassVar[float]
    max_connections: ClassVar[int]
    waiting: ClassVar[dict[BoundedProtocol, asyncio.TimerHandle]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = self._in_body = False  # of the request that is arriving
        self._head_bytes = 0
        self._to_answer = 0  # requests that have arrived

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > self.max_connections and not self._make_room():
            self._refuse(TOO_MANY)
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # what comes after a refusal
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD:
                self._refuse(TOO_LONG)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/"):  # another host's, or none: httptools would take the path out of it
            raise ValueError
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD:  # came at once
            self._refuse(TOO_LONG)
            raise ValueError
        self._in_head, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._stop_waiting()
        if not self.cycle.response_complete:
            self._to_answer += 1
        super().on_message_complete()
        self._watch()

    def on_response_complete(self) -> None:
        self._to_answer = max(0, self._to_answer - 1)  # it may have been answered before it had arrived
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's own sentence)
        if not self.transport.is_closing():
            self._refuse(NO_HTTP)

    def _watch(self) -> None:
        """Begin to wait for a request, unless one is being answered."""
        if not self._to_answer and not self.transport.is_closing() and self not in self.waiting:
            self.waiting[self] = self.loop.call_later(self.request_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        timer = self.waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _make_room(self) -> bool:
        """Close the connection that has waited longest; false where all of them have asked for something."""
        oldest = next(iter(self.waiting), None)
        if oldest is None:
            return False
        oldest._stop_waiting()
        oldest.transport.abort()
        return True

    def _give_up(self) -> None:
        if self.transport.is_closing():  # its last answer is being sent
            return
        if self._in_head or (self._in_body and not self.cycle.response_started):
            self._refuse(TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, refusal: tuple[int, str, str]) -> None:
        status, detail, code = refusal
        body = ErrorResponse(detail=detail, code=code).model_dump_json(exclude_unset=True).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


def bounded_protocol(*, request_timeout_s: float, max_connections: int) -> type[BoundedProtocol]:
    """The class of one server's connections, for `uvicorn.Config(http=...)`.

    Args:
        request_timeout_s: how long headers and body of a request may take to arrive, from the opening of the
            connection, or the end of the answer before. (One that is merely kept alive uvicorn closes earlier.)
        max_connections: how many are open at a time.
    """
    configured: dict[str, Any] = {
        "request_timeout_s": request_timeout_s,
        "max_connections": max_connections,
        "waiting": {},
    }
    return type("BoundedProtocol", (BoundedProtocol,), configured)


def raise_file_limit() -> int:
    """Let this process open as many files as it may, within reason; returns how many that is.

    The soft limit of a login shell, 1024, is for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft
