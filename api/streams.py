"""What all streams of Server-Sent Events have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from services.errors import StorageUnavailable

RETRY = b"retry: 3000\r\n\r\n"
"""Milliseconds after which a browser that has lost the connection opens it again."""
SEND_TIMEOUT_S = 60.0
"""A viewer that has taken nothing for so long is let go; it can resume where it was."""
LOOK_EVERY_S = 15.0
"""How often the service looks for those."""
ALIVE = b": alive\r\n\r\n"


class LogStream(EventSourceResponse):
    """A stream as sse-starlette makes it, for thousands of viewers at a time.

    What sse-starlette does with two tasks for each viewer, and a timer for each frame, is done by `_OpenStreams` for
    all of them. Frames are sent by a task of their own, which goes on sooner than one that is deep in middleware.

    A viewer that takes nothing any more ends its own stream. Its connection takes no last byte either, so the answer
    cannot be completed: uvicorn logs `ASGI callable returned without completing response`, which is no error of the
    service. Where the kernel gives the connection up first (TCP_USER_TIMEOUT), there is no such line. The end of the
    service cuts streams short too, but completes those whose viewers still take something.
    """

    def __init__(self, frames: AsyncGenerator[bytes]) -> None:
        """`frames` are sent as they are; an empty one says that nothing has happened for long.

        They end where the store cannot be read: the viewer comes again, and is told.
        """
        super().__init__(frames)
        self._frames = frames
        self._sending: asyncio.Task[None] | None = None
        self.sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = self._sending = asyncio.create_task(self._send_frames(send))
        leaving = asyncio.create_task(_wait_until_gone(receive))
        streams = _OpenStreams.of(asyncio.get_running_loop())
        streams.add(self)
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            streams.discard(self)
            leaving.cancel()
            self.cut()
            await asyncio.wait((sending,))
        if not sending.cancelled():
            sending.result()
        if self.sending_since is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def cut(self) -> None:
        """End the stream where it is."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_frames(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": RETRY, "more_body": True})
        with suppress(StorageUnavailable):
            async with aclosing(self._frames) as each:
                async for frames in each:
                    self.sending_since = time.monotonic()
                    await send({"type": "http.response.body", "body": frames or ALIVE, "more_body": True})
                    self.sending_since = None


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _OpenStreams:
    """Those of one event loop: ends all when the server is to end, and each whose viewer has stalled."""

    _of_loops: dict[asyncio.AbstractEventLoop, _OpenStreams] = {}  # noqa: RUF012 - one for each loop that has streams

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._streams: set[LogStream] = set()
        self._exit = loop.create_task(self._wait_for_exit())
        self._look = loop.call_later(LOOK_EVERY_S, self._cut_stalled)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _OpenStreams:
        if loop not in cls._of_loops:
            cls._of_loops[loop] = cls(loop)
        return cls._of_loops[loop]

    def add(self, stream: LogStream) -> None:
        self._streams.add(stream)
        if self._exit.done():  # one that came after the signal
            stream.cut()

    def discard(self, stream: LogStream) -> None:
        self._streams.discard(stream)
        if not self._streams:
            self._exit.cancel()
            self._look.cancel()
            self._of_loops.pop(self._loop, None)

    async def _wait_for_exit(self) -> None:
        await EventSourceResponse._listen_for_exit_signal()
        for stream in list(self._streams):
            stream.cut()

    def _cut_stalled(self) -> None:
        since = time.monotonic() - SEND_TIMEOUT_S
        for stream in list(self._streams):
            if stream.sending_since is not None and stream.sending_since < since:
                stream.cut()
        self._look = self._loop.call_later(LOOK_EVERY_S, self._cut_stalled)
