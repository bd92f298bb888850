"""Clients that start, stop, watch, poll and delete tasks, whatever happens to the service meanwhile.

Each of them writes what it is told into the ledger, the moment it is told.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import httpx

from benchmarks.crash.audit import compare
from benchmarks.crash.ledger import TERMINAL, Kind, Ledger, Promise, Task
from benchmarks.crash.service import Service
from benchmarks.crash.work import Work
from benchmarks.event_stream import NOT_FOUND, OK, Refused, open_stream

TRAINING = "/api/v2/training"
CONFLICT = 409
PAGE = 1000
ROAMING = 4
POLLERS = 2
AGAIN_S = 0.05
LANES = (Kind.PRINTER, Kind.ENDLESS, Kind.PROCESS)
"""What runs all the time. Floods, trainings in threads and those that wait are started when they are wanted."""


class Clients:
    def __init__(
        self, service: Service, work: Work, ledger: Ledger, random_: random.Random, group: asyncio.TaskGroup
    ) -> None:
        self._service = service
        self._work = work
        self._ledger = ledger
        self._random = random_
        self._group = group
        self._http = httpx.AsyncClient(base_url=service.url, timeout=30)
        self._all: set[asyncio.Task[None]] = set()
        self._closing = False

    def begin(self) -> None:
        """Let them all begin."""
        for kind in LANES:
            self._spawn(self._one_after_another(kind))
        for _ in range(ROAMING):
            self._spawn(self._roam())
        for _ in range(POLLERS):
            self._spawn(self._poll())

    async def finish(self, limit_s: float) -> None:
        """Start nothing more, stop what is endless, and let everything end and be compared."""
        self._closing = True
        while True:
            for task in self._ledger.active:
                if not task.stop_acknowledged and task.kind not in (Kind.PRINTER, Kind.FLOOD):
                    await self.stop(task)
            if not self._all:
                break
            done, _ = await asyncio.wait(self._all, timeout=1)
            limit_s -= 0 if done else 1
            if limit_s < 0:
                for each in self._all:
                    each.cancel()
                for task in self._ledger.active:
                    self._ledger.break_(Promise.ORPHANS, f"{task.task_id}, {task.kind}: it does not end")
                break
        await self._http.aclose()

    def start(self, kind: Kind) -> Task:
        """Start a task, and follow it to its end. The answer may not have come yet."""
        task = self._work.new(kind)
        self._spawn(self._see_through(task))
        return task

    async def stop(self, task: Task) -> None:
        """Ask until there is an answer."""
        task.stop_asked = True
        while (answer := await self._ask("POST", f"{TRAINING}/{task.task_id}/stop")) is None:
            await self._service.is_up.wait()
        if answer.status_code == NOT_FOUND:
            self._lost(task, "stop says 404")
        else:  # or 409: it is stopping already
            task.stop_acknowledged = True

    async def _stop_after(self, task: Task, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.stop(task)

    def stop_in_background(self, task: Task) -> None:
        self._spawn(self.stop(task))

    def _spawn(self, what: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(what)
        self._all.add(task)
        task.add_done_callback(self._all.discard)

    async def _one_after_another(self, kind: Kind) -> None:
        while not self._closing:
            await self._see_through(self._work.new(kind))

    async def _see_through(self, task: Task) -> None:
        """Start it, watch it, compare it with what was seen, and perhaps delete it."""
        if not await self._start(task):
            return
        if task.kind is Kind.WAITING:
            self._spawn(self._stop_after(task, self._random.uniform(1, 6)))
        await self._follow(task)
        if task.end is None:
            return
        await self._compare(task)
        if self._random.random() < 0.7:
            await self._delete(task)
        task.files_removed = True
        await asyncio.to_thread(shutil.rmtree, task.output_dir, ignore_errors=True)

    async def _start(self, task: Task) -> bool:
        """Start it until the service says that it exists: a client whose answer was lost asks again."""
        self._ledger.tasks[task.task_id] = task
        was_lost = False
        while True:
            answer = await self._ask("POST", f"{TRAINING}/start", task.body)
            if answer is None:
                if self._closing:
                    return False
                was_lost = True
                await self._service.is_up.wait()
            elif answer.status_code == OK or (was_lost and answer.json()["code"] == "task_id_in_use"):
                task.acknowledged = True
                return True
            elif answer.status_code == CONFLICT and was_lost:
                evidence = f"{task.task_id}: started again after its answer was lost: {answer.text}"
                self._ledger.break_(Promise.REPEATS, evidence)
                return False
            elif answer.status_code == 503:
                await asyncio.sleep(AGAIN_S)
            else:
                raise AssertionError(f"{task.body} was refused: {answer.text}")

    async def _follow(self, task: Task, seen: int = 0) -> None:
        """See every line after `seen` once, over any number of connections."""
        while task.end is None or seen < max(task.lines, default=0):
            await self._service.is_up.wait()
            try:
                async with open_stream(self._service.url, task.task_id, after=seen) as stream:
                    async for event in stream:
                        self._ledger.saw_line(task, event, after=seen)
                        seen = event.id
            except Refused as refused:
                if refused.status == NOT_FOUND:
                    self._lost(task, f"its stream after line {seen} says 404")
                    return
            except (OSError, asyncio.IncompleteReadError):
                pass
            await asyncio.sleep(AGAIN_S)

    async def _roam(self) -> None:
        """Look at one task after another, from its first line or a late one, and leave in the middle or at the end."""
        while not self._closing:
            task = self._any_active()
            if task is not None:
                late = max(0, len(task.lines) - 100)
                watching = self._follow(task, self._random.choice((0, late, late)))
                with suppress(TimeoutError):
                    await asyncio.wait_for(watching, self._random.uniform(0.5, 10))
            await asyncio.sleep(AGAIN_S)

    async def _poll(self) -> None:
        while not self._closing:
            await self._service.is_up.wait()
            if (task := self._any_active()) is not None:
                await self._look(task)
            await asyncio.sleep(AGAIN_S)

    async def _look(self, task: Task) -> None:
        answer = await self._ask("GET", f"{TRAINING}/{task.task_id}")
        if answer is None:
            return
        if answer.status_code == NOT_FOUND:
            self._lost(task, "status says 404")
        elif (status := answer.raise_for_status().json())["status"] in TERMINAL:
            self._ledger.heard_end(task, status["status"], status.get("reason"))

    def _any_active(self) -> Task | None:
        active = self._ledger.active
        return self._random.choice(active) if active else None

    async def _compare(self, task: Task) -> None:
        """The whole history of an ended task against what was seen of it and what its trainer printed."""
        history = await self.read_history(task)
        output = self._work.run_dir(task.task_id) / "output.log"
        printed = output.read_text("utf-8") if output.exists() else None
        for problem in compare(task, history, printed):
            self._ledger.break_(Promise.LINES, f"{task.task_id}: {problem}")

    async def read_history(self, task: Task) -> list[dict[str, Any]]:
        """Every line that the service has stored, oldest first."""
        entries: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            path = f"{TRAINING}/{task.task_id}/logs/history?after={after}&limit={PAGE}"
            answer = await self._ask("GET", path)
            if answer is None:
                await self._service.is_up.wait()
            elif answer.status_code == NOT_FOUND:
                self._lost(task, "its history says 404")
                return entries
            else:
                page = answer.raise_for_status().json()
                entries += page["entries"]
                after = page.get("next_after")
        return entries

    async def _delete(self, task: Task) -> None:
        task.deletion_asked = True
        answer = await self._ask("DELETE", f"{TRAINING}/{task.task_id}")
        if answer is not None and answer.status_code == OK:
            task.deletion_acknowledged = True

    def _lost(self, task: Task, evidence: str) -> None:
        if task.acknowledged and not task.deletion_asked:
            self._ledger.break_(Promise.TASKS, f"{task.task_id}, {task.kind}: {evidence}")

    async def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response | None:
        """`None` where no answer came."""
        try:
            return await self._http.request(method, path, json=body)
        except httpx.TransportError:
            await asyncio.sleep(AGAIN_S)
            return None
