"""What all streams of Server-Sent Events have in common."""

from __future__ import annotations

from contextlib import suppress

from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

RETRY_MS = 3000
"""After which a browser that has lost the connection opens it again."""
KEEP_ALIVE_S = 15
SEND_TIMEOUT_S = 60
"""A viewer that has taken nothing for so long is let go; it can resume where it was."""


class LogStream(EventSourceResponse):
    """A viewer that takes nothing any more ends its own stream, and is no error of the service."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)
