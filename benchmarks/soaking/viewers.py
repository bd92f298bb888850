"""Viewers that come and go: patient ones, cut ones that resume, and ones that stop reading."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.event_stream import NO_CONTENT, NOT_FOUND, SMALL_BUFFER, Refused, Stream, open_stream
from benchmarks.soaking.trainings import Trainings

WAYS = {"patient": 5, "resumes": 3, "cut": 2, "stalls": 1}
"""How viewers behave, and how often."""


class Viewers:
    """Attributes:
    watching: viewers with an open stream at this moment.
    counts: how many have come, by what they did.
    missed: events whose number was not the next one. A promise says 0.
    """

    def __init__(self, url: str, trainings: Trainings, random_: random.Random) -> None:
        self._url = url
        self._trainings = trainings
        self._random = random_
        self.watching = 0
        self.lines = 0
        self.missed = 0
        self.counts: Counter[str] = Counter()

    async def run(self, number: int) -> None:
        """Keep `number` viewers, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(self._one_after_another())

    async def _one_after_another(self) -> None:
        await asyncio.sleep(self._random.uniform(0, 2))
        while True:
            task_id = self._choose()
            if task_id is None:
                await asyncio.sleep(0.2)
                continue
            way = self._random.choices(list(WAYS), list(WAYS.values()))[0]
            self.counts[way] += 1
            try:
                await self._watch(task_id, way)
            except Refused as refused:
                if refused.status not in (NO_CONTENT, NOT_FOUND):  # seen to the end, or deleted
                    self.counts[f"refused with {refused.status}"] += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                self.counts[f"lost: {type(error).__name__}"] += 1
            await asyncio.sleep(self._random.uniform(0, 1))

    def _choose(self) -> str | None:
        """A running task mostly, else one that has ended, and may be deleted."""
        of = self._trainings.live if self._random.random() < 0.8 else self._trainings.ended
        return self._random.choice(list(of)) if of else None

    async def _watch(self, task_id: str, way: str) -> None:
        if way == "stalls":
            async with self._stream(task_id, buffer=SMALL_BUFFER):
                await asyncio.sleep(self._random.uniform(1, 30))
            return
        seen, until = 0, self._random.randint(1, 200)
        async with self._stream(task_id) as stream:
            seen = await self._read(stream, seen, None if way == "patient" else until)
            if way == "cut":
                stream.cut()
        if way == "resumes":
            await asyncio.sleep(self._random.uniform(0, 2))
            async with self._stream(task_id, after=seen) as stream:
                await self._read(stream, seen, None)

    async def _read(self, stream: Stream, seen: int, until: int | None) -> int:
        """The last number read: the task's last line, or the one after which the viewer has enough."""
        async for event in stream:
            self.missed += event.id != seen + 1
            self.lines += 1
            seen = event.id
            if event.entry.get("status") or (until is not None and seen >= until):
                break
        return seen

    @asynccontextmanager
    async def _stream(self, task_id: str, *, after: int = 0, buffer: int | None = None) -> AsyncIterator[Stream]:
        async with open_stream(self._url, task_id, after=after, receive_buffer=buffer) as stream:
            self.watching += 1
            try:
                yield stream
            finally:
                self.watching -= 1
