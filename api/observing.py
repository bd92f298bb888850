"""How many requests there were, how they were answered and how soon; and whose lines of the log are whose.

Around the routes alone. What is refused before (`api.security`, `api.read_replica`) or answered before
(`api.prepared_status`) is counted there: the fastest answers would be a third slower with a watch around them.
"""

from __future__ import annotations

import logging
import re
import time
from secrets import token_hex

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.fields import RESERVED_TASK_IDS
from services.log_context import REQUEST_ID, TASK_ID

logger = logging.getLogger("api.requests")

REFUSED = "(refused)"
NO_ROUTE = "(other)"
UNANSWERED = "none"
"""Status of a request whose sender had gone before there was an answer."""
SLOW_S = 1.0
"""A question that was answered well is told in the log only if that took so long."""
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TASK = "/api/v2/training/"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestCounts:
    """The metrics of all requests of one application."""

    def __init__(self) -> None:
        self.requests = Counter(
            "training_http_requests",
            "Requests by route and status",
            ["method", "route", "status"],
            registry=None,
        )
        self.seconds = Histogram(
            "training_http_request_seconds",
            "Until an answer began, by route; without those that were refused or answered before any route",
            ["route"],
            buckets=_BUCKETS_S,
            registry=None,
        )
        self.dropped = Counter(
            "training_streams_dropped", "Streams that were cut off because their viewer took nothing", registry=None
        )

    def refused(self, scope: Scope, status: int) -> None:
        """A request was refused before any route was looked for."""
        _name(scope)
        self.requests.labels(_method(scope), REFUSED, str(status)).inc()
        _tell(scope, status, 0.0)


class Observing:
    """ASGI middleware, inside of all others."""

    def __init__(self, app: ASGIApp, counts: RequestCounts) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, waited, is_stream, is_open = 0, 0.0, False, False
        _name(scope)

        async def watched(message: Message) -> None:
            nonlocal status, waited, is_stream, is_open
            if message["type"] == "http.response.start":
                status, waited, is_open = message["status"], time.perf_counter() - began, True
                is_stream = any(
                    name == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message.get("headers", ())
                )
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                is_open = False
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = status or 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._counts.requests.labels(_method(scope), route, str(status or UNANSWERED)).inc()
            if status:
                waited = waited or time.perf_counter() - began
                self._counts.seconds.labels(route).observe(waited)
                _tell(scope, status, waited)
            if is_stream and is_open:
                self._counts.dropped.inc()


def _name(scope: Scope) -> None:
    """For the lines of the log. Never reset: a request has a context of its own (uvicorn)."""
    REQUEST_ID.set(_request_id(scope))
    TASK_ID.set(_task_id(scope["path"]))


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def _request_id(scope: Scope) -> str:
    """What a proxy has called it, if that can be told in a log; else a name of our own."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
    return token_hex(8)


def _task_id(path: str) -> str | None:
    if not path.startswith(_TASK):
        return None
    task_id = path[len(_TASK) :].partition("/")[0][:64]
    return task_id if task_id and task_id not in RESERVED_TASK_IDS else None


def _tell(scope: Scope, status: int, waited: float) -> None:
    if scope["method"] not in _SAFE or status >= 400 or waited >= SLOW_S:
        about = {"method": scope["method"], "path": scope["path"], "status": status, "duration_s": round(waited, 6)}
        logger.info("%s %s was answered with %d", scope["method"], scope["path"], status, extra=about)
