"""When what is killed: each function brings about a moment, and kills in it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.crash.clients import Clients
from benchmarks.crash.ledger import Kind, Ledger, Promise, Task
from benchmarks.crash.service import Service
from benchmarks.crash.work import Work

MOMENT_LIMIT_S = 45.0
"""How long a moment is waited for: a training in a fresh service imports torch first."""
REPORT_LIMIT_S = 10.0
STARTS = (Kind.PRINTER, Kind.WAITING, Kind.PRINTER, Kind.WAITING)
FEW_LINES = 20


class Scene:
    """All that a kill may need, and what it does to the ledger."""

    def __init__(self, service: Service, clients: Clients, work: Work, ledger: Ledger, random_: random.Random) -> None:
        self.service = service
        self.clients = clients
        self.ledger = ledger
        self.random = random_
        self._work = work

    def kill_service(self) -> None:
        for task in self.ledger.tasks.values():
            if task.kind is Kind.THREAD and task.end is None:
                task.interruptions += 1
        self.service.kill()

    def kill_trainer(self, task: Task) -> bool:
        """Whether there was one. Whoever is told how the task ended must be told of this."""
        process = self._work.trainer_of(task)
        if process is None or task.end is not None:
            return False
        task.trainer_killed = True
        os.kill(process.pid, signal.SIGKILL)
        return True

    async def pause(self, longest_s: float) -> None:
        await asyncio.sleep(self.random.uniform(0, longest_s))

    async def task(self, *kinds: Kind, epochs: int = 0, lines: int = FEW_LINES) -> Task | None:
        """An active one that nobody has stopped or killed, and that has got so far; started where there is none."""

        def ready() -> list[Task]:
            return [
                task
                for task in self._undisturbed(*kinds)
                if len(task.lines) >= lines and task.epochs_finished >= epochs
            ]

        if not self._undisturbed(*kinds):
            self.clients.start(kinds[0])
        await until(lambda: bool(ready()), MOMENT_LIMIT_S)
        found = ready()
        return self.random.choice(found) if found else None

    def _undisturbed(self, *kinds: Kind) -> list[Task]:
        return [
            task
            for task in self.ledger.tasks.values()
            if task.kind in kinds and task.end is None and not (task.stop_asked or task.trainer_killed)
        ]

    async def reported(self, task: Task) -> None:
        """The end of a trainer that was killed is known within seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(task.ended.wait(), REPORT_LIMIT_S)
            return
        self.ledger.break_(
            Promise.ORPHANS, f"{task.task_id} is active {REPORT_LIMIT_S:g} s after its trainer was killed"
        )


async def until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


async def start_reply(scene: Scene) -> bool:
    for kind in STARTS:
        scene.clients.start(kind)
    await scene.pause(0.06)
    scene.kill_service()
    return True


async def mid_commit(scene: Scene) -> bool:
    flood = await scene.task(Kind.FLOOD)
    wal = scene.service.store.with_name(scene.service.store.name + "-wal")
    hit = await asyncio.to_thread(_wait_for_write, wal, 1.0)
    scene.kill_service()
    return hit and flood is not None


async def during_stop(scene: Scene) -> bool:
    task = await scene.task(Kind.ENDLESS, Kind.PROCESS)
    if task is not None:
        scene.clients.stop_in_background(task)
    await scene.pause(0.1)
    scene.kill_service()
    return task is not None


async def during_restart(scene: Scene) -> bool:
    scene.kill_service()
    for _ in range(scene.random.randint(1, 3)):
        scene.service.start()
        await scene.pause(2)
        scene.kill_service()
    return True


async def any_moment(scene: Scene) -> bool:
    await scene.pause(1)
    scene.kill_service()
    return True


async def thread_mid_epoch(scene: Scene) -> bool:
    task = await scene.task(Kind.THREAD, epochs=1)
    await scene.pause(0.3)
    scene.kill_service()
    return task is not None


async def thread_mid_checkpoint(scene: Scene) -> bool:
    task = await scene.task(Kind.THREAD, epochs=1)
    if task is not None:
        await asyncio.to_thread(_wait_for_partial, task.output_dir, 5.0)
    scene.kill_service()
    return task is not None and _has_partial(task.output_dir)


async def trainer_mid_epoch(scene: Scene) -> bool:
    task = await scene.task(Kind.PROCESS, epochs=1)
    await scene.pause(0.3)
    return await _kill_and_hear(scene, task)


async def trainer_mid_checkpoint(scene: Scene) -> bool:
    task = await scene.task(Kind.PROCESS, epochs=1)
    if task is None:
        return False
    await asyncio.to_thread(_wait_for_partial, task.output_dir, 5.0)
    return scene.kill_trainer(task) and _has_partial(task.output_dir) and await _heard(scene, task)


async def command(scene: Scene) -> bool:
    return await _kill_and_hear(scene, await scene.task(Kind.ENDLESS))


async def trainer_without_service(scene: Scene) -> bool:
    task = await scene.task(Kind.ENDLESS, Kind.PROCESS)
    scene.kill_service()
    return task is not None and scene.kill_trainer(task)


async def _kill_and_hear(scene: Scene, task: Task | None) -> bool:
    return task is not None and scene.kill_trainer(task) and await _heard(scene, task)


async def _heard(scene: Scene, task: Task) -> bool:
    await scene.reported(task)
    return True


def _wait_for_write(path: Path, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    with suppress(FileNotFoundError):
        before = path.stat().st_mtime_ns
        while time.monotonic() < deadline:
            if path.stat().st_mtime_ns != before:
                return True
    return False


def _has_partial(folder: Path) -> bool:
    """Whether a checkpoint is being written, or was when its writer was killed."""
    with suppress(FileNotFoundError):
        return any(".partial" in name or ".tmp" in name for name in os.listdir(folder))  # noqa: PTH208 - asked often
    return False


def _wait_for_partial(folder: Path, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not _has_partial(folder) and time.monotonic() < deadline:
        time.sleep(0.0003)


class Sort(NamedTuple):
    """A kind of kill, and how often there is one among all."""

    name: str
    weight: int
    kill: Callable[[Scene], Awaitable[bool]]


SORTS = (
    Sort("service, during the start reply", 9, start_reply),
    Sort("service, mid-commit", 9, mid_commit),
    Sort("service, during a stop", 5, during_stop),
    Sort("service, during its restart", 5, during_restart),
    Sort("service, at any moment", 3, any_moment),
    Sort("service, mid-epoch of a thread", 1, thread_mid_epoch),
    Sort("service, mid-checkpoint of a thread", 1, thread_mid_checkpoint),
    Sort("service, then a trainer", 1, trainer_without_service),
    Sort("trainer, mid-epoch", 2, trainer_mid_epoch),
    Sort("trainer, mid-checkpoint", 2, trainer_mid_checkpoint),
    Sort("trainer, a command", 2, command),
)


def schedule(kills: int, random_: random.Random) -> list[Sort]:
    """`kills` of them in random order, each as often as its weight says and, where there is room, at least once."""
    total = sum(sort.weight for sort in SORTS)
    chosen = [sort for sort in SORTS for _ in range(max(1, kills * sort.weight // total))]
    random_.shuffle(chosen)
    while len(chosen) < kills:
        chosen.append(random_.choices(SORTS, [sort.weight for sort in SORTS])[0])
    return chosen[:kills]
