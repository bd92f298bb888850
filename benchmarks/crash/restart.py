"""What is looked at between a kill and the next one."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from benchmarks.crash.audit import check_store, damage
from benchmarks.crash.ledger import TERMINAL, Ledger, Promise
from benchmarks.crash.service import Service
from benchmarks.crash.work import Work
from services.executors.supervisor import RECORD

ORPHAN_LIMIT_S = 10.0
STOP_LIMIT_S = 15.0
"""For a stop that was acknowledged before the service was killed: its grace is 1 s."""


def check_killed_store(store: Path, ledger: Ledger) -> None:
    """Look at the store as the kill has left it, in a copy: opening it repairs it."""
    ledger.looked_at[Promise.INTEGRITY] += 1
    with tempfile.TemporaryDirectory() as scratch:
        for path in (store, store.with_name(store.name + "-wal")):
            if path.exists():
                shutil.copy(path, scratch)
        for promise, evidence in check_store(Path(scratch) / store.name, ledger):
            ledger.break_(promise, f"after the kill: {evidence}")


def check_open_store(store: Path, ledger: Ledger) -> None:
    ledger.looked_at[Promise.INTEGRITY] += 1
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)) as connection:
        for problem in damage(connection):
            ledger.break_(Promise.INTEGRITY, f"after the restart: {problem}")


async def check_orphans(service: Service, work: Work, ledger: Ledger) -> None:
    """Within ten seconds, each task that has not ended is seen in its place once, or to have ended."""

    def is_run(task_id: str) -> bool:
        task = ledger.tasks.get(task_id)
        is_process = (work.run_dir(task_id) / RECORD).exists()
        return task is None or not is_process or work.trainer_of(task) is not None

    deadline, suspects = time.monotonic() + ORPHAN_LIMIT_S, None
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        while True:
            active = [("status", status) for status in ("pending", "queued", "running", "stopping")]
            page = (await client.get("/api/v2/training", params=[*active, ("limit", "200")])).raise_for_status()
            health = (await client.get("/api/v1/health")).raise_for_status()
            found = suspicious(page.json()["tasks"], health.json(), is_run)
            suspects = found if suspects is None else suspects & found
            if not suspects:
                return
            if time.monotonic() > deadline:
                for task_id in suspects:
                    ledger.break_(Promise.ORPHANS, f"{task_id}, {ORPHAN_LIMIT_S:g} s after the restart")
                return
            await asyncio.sleep(0.1)


def suspicious(
    active: Sequence[Mapping[str, Any]], health: Mapping[str, Any], is_run: Callable[[str], bool]
) -> set[str]:
    """Active tasks that nothing may stand behind, as of one moment.

    The service says how many wait and run in truth. Where fewer do than have the status, any of these may be the
    one that is forgotten; and a process task that runs has a live process.
    """
    waiting = {task["task_id"] for task in active if task["status"] in ("pending", "queued")}
    running = {task["task_id"] for task in active if task["status"] not in ("pending", "queued", *TERMINAL)}
    found = {task_id for task_id in running if not is_run(task_id)}
    if len(waiting) > health["queued"]:
        found |= waiting
    if len(running) > health["running"]:
        found |= running
    return found


async def check_stops(ledger: Ledger) -> None:
    """What was answered to a stop is true after the restart too."""
    stopped = [task for task in ledger.active if task.stop_acknowledged]
    if stopped:
        await asyncio.wait([asyncio.create_task(task.ended.wait()) for task in stopped], timeout=STOP_LIMIT_S)
    for task in stopped:
        if task.end is None:
            ledger.break_(Promise.ANSWERS, f"{task.task_id}: its stop was answered, and it runs on")
            task.stop_asked = task.stop_acknowledged = False
