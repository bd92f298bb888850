"""What all streams of Server-Sent Events have in common."""

from __future__ import annotations

from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.types import Message, Receive, Scope, Send

RETRY_MS = 3000
"""After which a browser that has lost the connection opens it again."""
KEEP_ALIVE_S = 15
SEND_TIMEOUT_S = 60
"""A viewer that has taken nothing for so long is let go; it can resume where it was."""


class LogStream(EventSourceResponse):
    """A viewer that takes nothing any more ends its own stream, and is no error of the service.

    Nor is the end of the service: a stream that is cut short by it is completed all the same.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = False

        async def watched(message: Message) -> None:
            nonlocal is_open
            is_open = message["type"] == "http.response.start" or bool(message.get("more_body"))
            await send(message)

        try:
            await super().__call__(scope, receive, watched)
        except SendTimeoutError:
            return
        if is_open:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
