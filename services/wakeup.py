"""Waiting, in any event loop, for what another thread brings about."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


class Wakeup:
    """Wakes whoever waits, as often as anything may have changed; each looks whether it was what it waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.AbstractEventLoop, set[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def notify(self) -> None:
        """Something has changed. From any thread."""
        with self._lock:
            loops = list(self._waiting)
        for loop in loops:
            with suppress(RuntimeError):  # the loop has been closed, and who waited in it is gone
                loop.call_soon_threadsafe(self._wake, loop)

    async def wait(self, is_ready: Callable[[], bool]) -> None:
        """Return once `is_ready`, or something else has changed. What makes it ready is done before `notify`."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            self._waiting.setdefault(loop, set()).add(future)
        try:
            if not is_ready():
                await future
        finally:
            with self._lock:
                waiting = self._waiting.get(loop, set())
                waiting.discard(future)
                if not waiting:
                    self._waiting.pop(loop, None)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            waiting = self._waiting.pop(loop, set())
        for future in waiting:
            if not future.done():
                future.set_result(None)
