"""Connections that say little must not starve those that ask.

uvicorn gives a request all the time in the world: a connection that is opened and says nothing, sends its headers
a byte at a time, or announces a body that never comes, is held for ever, and each holds a file descriptor. Here a
request has a deadline to arrive by, and where too many connections are open, the one that has waited longest
without asking anything is closed for the new one.
"""

from __future__ import annotations

import asyncio
import resource
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from models.schemas import ErrorResponse

MOST_FILES = 65_536
MOST_CONNECTIONS = 10_000

TOO_SLOW = (408, "The request did not arrive in time: send it faster, or see REQUEST_TIMEOUT_S.", "request_timeout")
TOO_MANY = (503, "Too many connections are open: close some streams, then try again.", "too_many_connections")
NO_HTTP = (400, "This is no HTTP request.", "invalid_http")


class BoundedProtocol(H11Protocol):
    """One connection. `bounded_protocol` makes the class for a server.

    Attributes:
        waiting: the server's connections whose request has not arrived, the longest waiting one first, each with
            the timer of its deadline. One whose last answer is still on its way out is among them.
    """

    request_timeout_s: ClassVar[float]
    max_connections: ClassVar[int]
    waiting: ClassVar[dict[BoundedProtocol, asyncio.TimerHandle]]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > self.max_connections and not self._make_room():
            self._refuse(TOO_MANY)
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's own sentence)
        self._refuse(NO_HTTP)

    def _watch(self) -> None:
        """Begin, go on, or end to wait for a request, as its parts arrive."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_waiting()
        elif self not in self.waiting:
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
        has_begun = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        if has_begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, refusal: tuple[int, str, str]) -> None:
        status, detail, code = refusal
        body = ErrorResponse(detail=detail, code=code).model_dump_json(exclude_unset=True).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        answer = h11.Response(status_code=status, headers=list(headers.items()), reason=HTTPStatus(status).phrase)
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
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
