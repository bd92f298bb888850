"""Waiting, in any event loop, for what another thread brings about."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

BEAT_S = 15.0
"""After which whoever waits is woken though nothing has changed: a stream shows that it is alive."""
REST = 0.5
"""How long a loop is left alone after it has woken those who wait, in times of what they took it.

Two thousand viewers take tens of milliseconds each time. Woken at every line, they would leave nothing of the loop to
whoever asks for something else; rested, they get several lines at once, for less, and leave a third of it.
"""
SHORT_S = 0.001
"""Those who took less need no rest."""


@dataclass(eq=False)
class _Waiting:
    """Who waits in one event loop.

    Attributes:
        is_resting: they were woken a moment ago, and are not to be woken yet.
        is_due: something has changed since.
        beat: the timer that wakes them though nothing changes.
    """

    futures: set[asyncio.Future[bool]] = field(default_factory=set)
    is_resting: bool = False
    is_due: bool = False
    beat: asyncio.TimerHandle | None = None


class Wakeup:
    """Wakes whoever waits, as often as anything may have changed; each looks whether it was what it waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, _Waiting] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._lock:
            return sum(len(each.futures) for each in self._loops.values())

    def notify(self) -> None:
        """Something has changed. From any thread."""
        with self._lock:
            loops = list(self._loops)
        for loop in loops:
            with suppress(RuntimeError):  # the loop has been closed, and who waited in it is gone
                loop.call_soon_threadsafe(self._wake, loop)

    async def wait(self, is_ready: Callable[[], bool]) -> bool:
        """Return once `is_ready`, or something else has changed; false where a beat has passed before.

        What makes it ready is done before `notify`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        with self._lock:
            here = self._loops.get(loop)
            if here is None:
                here = self._loops[loop] = _Waiting()
            here.futures.add(future)
        if here.beat is None:
            here.beat = loop.call_later(BEAT_S, self._beat, loop)
        try:
            if is_ready():
                if not here.is_resting:
                    return True
                here.is_due = True
            return await future
        finally:
            here.futures.discard(future)
            if not here.futures and not here.is_resting:
                self._forget(loop)

    def _wake(self, loop: asyncio.AbstractEventLoop, *, has_changed: bool = True) -> None:
        here = self._loops.get(loop)
        if here is None:
            return
        if here.is_resting:
            here.is_due = here.is_due or has_changed
            return
        here.is_resting = True
        woken, here.futures = here.futures, set()
        began = time.thread_time()
        for future in woken:
            if not future.done():
                future.set_result(has_changed)
        # They run before what is called soon, and what they write is sent before what is called soon by that.
        loop.call_soon(loop.call_soon, self._rest, loop, here, began)

    def _rest(self, loop: asyncio.AbstractEventLoop, here: _Waiting, began: float) -> None:
        took = time.thread_time() - began
        if took < SHORT_S:
            self._go_on(loop, here)
        else:
            loop.call_later(REST * took, self._go_on, loop, here)

    def _go_on(self, loop: asyncio.AbstractEventLoop, here: _Waiting) -> None:
        here.is_resting = False
        if here.is_due:
            here.is_due = False
            self._wake(loop)
        elif not here.futures:
            self._forget(loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        here = self._loops.get(loop)
        if here is None:
            return
        here.beat = None
        if here.is_resting:  # they have just been woken by a change
            here.beat = loop.call_later(BEAT_S, self._beat, loop)
        else:
            self._wake(loop, has_changed=False)

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            here = self._loops.pop(loop, None)
        if here is not None and here.beat is not None:
            here.beat.cancel()
