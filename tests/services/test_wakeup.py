"""Those who wait are woken by every change, told of quiet, and never so often that nothing else runs."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from services import wakeup
from services.wakeup import REST, SHORT_S, Wakeup

TIMEOUT_S = 30
LONG_S = 20 * SHORT_S


class Counter:
    """Something that changes, and those who wait for it."""

    def __init__(self) -> None:
        self.value = 0
        self.wakeup = Wakeup()

    def rise(self) -> None:
        self.value += 1
        self.wakeup.notify()

    async def wait_above(self, seen: int) -> None:
        while self.value <= seen:
            assert await self.wakeup.wait(lambda: self.value > seen)


def be_busy(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def test_what_is_ready_is_not_waited_for() -> None:
    async with asyncio.timeout(TIMEOUT_S):
        assert await Wakeup().wait(lambda: True)


async def test_nobody_waits_any_more_once_woken_or_gone() -> None:
    counter = Counter()
    waiting = [asyncio.create_task(counter.wait_above(0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert counter.wakeup.waiting == 3
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert counter.wakeup.waiting == 2
    counter.rise()
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*waiting[1:])
    assert counter.wakeup.waiting == 0


async def test_quiet_is_told_once_a_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "BEAT_S", 0.01)
    quiet = Wakeup()
    async with asyncio.timeout(TIMEOUT_S):
        assert [await quiet.wait(lambda: False) for _ in range(3)] == [False] * 3


async def test_a_beat_that_falls_into_a_rest_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "BEAT_S", LONG_S / 2)
    counter = Counter()

    async def take_long() -> bool:
        await counter.wait_above(0)
        be_busy(LONG_S)
        return await counter.wakeup.wait(lambda: counter.value > 1)

    async with asyncio.timeout(TIMEOUT_S):
        waiting = [asyncio.create_task(take_long()) for _ in range(3)]
        await asyncio.sleep(0)
        counter.rise()
        assert await asyncio.gather(*waiting) == [False] * 3


async def test_those_who_take_long_are_left_alone_for_as_long_again_and_more() -> None:
    counter = Counter()
    woken: list[float] = []

    async def follow() -> None:
        while len(woken) < 4:
            await counter.wait_above(counter.value)
            woken.append(time.monotonic())
            be_busy(LONG_S)

    following = asyncio.create_task(follow())
    async with asyncio.timeout(TIMEOUT_S):
        while not following.done():
            counter.rise()
            await asyncio.sleep(SHORT_S)
    gaps = [after - before for before, after in itertools.pairwise(woken)]
    assert min(gaps) >= LONG_S + REST * LONG_S - 2 * SHORT_S  # timers are whole milliseconds


async def test_a_change_while_they_rest_reaches_those_who_come_then_too() -> None:
    counter = Counter()

    async def take_long(seen: int) -> None:
        await counter.wait_above(seen)
        be_busy(LONG_S)

    async with asyncio.timeout(TIMEOUT_S):
        first = asyncio.create_task(take_long(0))
        await asyncio.sleep(0)
        counter.rise()
        await first
        late = [asyncio.create_task(counter.wait_above(1)) for _ in range(3)]
        await asyncio.sleep(0)
        counter.rise()
        ready = asyncio.create_task(counter.wait_above(0))
        await asyncio.gather(*late, ready)


def test_no_change_is_missed_in_any_of_several_loops() -> None:
    counter, last = Counter(), 2_000
    reached: list[int] = []

    async def follow() -> None:
        seen = 0
        while seen < last:
            await counter.wait_above(seen)
            seen = counter.value
        reached.append(seen)

    async def follow_all() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*(follow() for _ in range(20)))

    loops = [threading.Thread(target=asyncio.run, args=(follow_all(),)) for _ in range(2)]
    for loop in loops:
        loop.start()
    for _ in range(last):
        counter.rise()
    for loop in loops:
        loop.join(TIMEOUT_S)
    assert reached == [last] * 40
