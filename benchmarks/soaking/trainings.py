"""Trainings that start and end without pause, in every way that a training can."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

PRINTER = """\
import sys, time
lines, pause, status = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
for number in range(1, lines + 1):
    print(f"Epoch [{number}/{lines}], Train Loss: {1 / number:.4f}, Train Accuracy: {number % 100}%", flush=True)
    time.sleep(pause)
sys.exit(status)
"""
CLASSES = ("one", "two", "three")
REMEMBERED = 40
"""Ended tasks that viewers may still look at."""


def write_images(folder: Path) -> None:
    """`folder/train` and `folder/val`: three classes of eight images of 16x16 pixels each."""
    for split in ("train", "val"):
        for shade, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (16, 16), (80 * shade, 10 * number, 40)).save(folder / split / name / f"{number}.png")


class Trainings:
    """Starts tasks as long as `run` runs.

    Attributes:
        live: tasks that have not ended, as far as is known here.
        ended: the latest that have, those deleted since included.
        counts: how many have ended, by kind and status.
    """

    def __init__(self, url: str, folder: Path, random_: random.Random) -> None:
        # uvicorn closes a connection that was idle for 5 s; be done with it before, or they race.
        self._http = httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(keepalive_expiry=2))
        self._folder = folder
        self._random = random_
        self.live: list[str] = []
        self.ended: deque[str] = deque(maxlen=REMEMBERED)
        self.counts: Counter[str] = Counter()

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, lanes: int) -> None:
        """`lanes` tasks of each of the two sorts at a time, until cancelled. Waits for none."""
        async with asyncio.TaskGroup() as group:
            for number in range(lanes):
                group.create_task(self._forever(number, self._built_in))
                group.create_task(self._forever(lanes + number, self._command))

    async def finish(self) -> None:
        """Stop what is left, and wait until nothing runs. A start may have been cut off before its answer came."""
        while await self._is_busy():
            active = await self._http.get("/api/v2/training?status=pending&status=queued&status=running&limit=200")
            for task in active.json()["tasks"]:
                await self._http.post(f"/api/v2/training/{task['task_id']}/stop")
            await asyncio.sleep(0.2)
        self.live.clear()

    async def _is_busy(self) -> bool:
        health = (await self._http.get("/api/v1/health")).json()
        return bool(health["running"] or health["queued"])

    async def _forever(self, number: int, start: Any) -> None:
        await asyncio.sleep(0.3 * number)
        while True:
            await start()

    async def _built_in(self) -> None:
        """In a thread of the service: one that completes, one that is stopped, one that diverges."""
        kind = self._random.choice(("completes", "completes", "stopped", "diverges"))
        body = {
            "model": self._random.choice(("shufflenet_v2_x0_5", "mobilenet_v3_small")),
            "num_classes": len(CLASSES),
            "train_path": str(self._folder / "train"),
            "val_path": str(self._folder / "val"),
            "save_path": str(self._folder / "runs"),
            "num_epochs": 1000 if kind == "stopped" else self._random.randint(1, 3),
            "image_size": 32,
            "device": "cpu",
            "executor": "thread",
            "pretrained": False,
            "learning_rate": 1.0 if kind == "diverges" else 1e-3,
            "optimizer": "sgd" if kind == "diverges" else "adamw",
            "weight_decay": 10 if kind == "diverges" else 0,
            "warmup_epochs": 0,
        }
        task_id = await self._start(body)
        if kind == "stopped":
            await self._until_running(task_id)
            await asyncio.sleep(self._random.uniform(0, 3))
            await self._http.post(f"/api/v2/training/{task_id}/stop")
        await self._end(task_id, f"thread, {kind}")
        await asyncio.to_thread(shutil.rmtree, self._folder / "runs" / task_id, ignore_errors=True)

    async def _command(self) -> None:
        """A process: it completes, fails, is stopped, or is killed."""
        kind = self._random.choice(("completes", "completes", "fails", "stopped", "killed"))
        lines = str(self._random.randint(20, 600))
        arguments = [lines, "0.005", "3" if kind == "fails" else "0"]
        if kind in ("stopped", "killed"):
            arguments[:2] = ["100000", "0.01"]
        command = [sys.executable, "-S", "-c", PRINTER, *arguments]
        task_id = await self._start({"command": command, "working_dir": str(self._folder), "device": "cpu"})
        if kind in ("stopped", "killed"):
            await self._until_running(task_id)
            await asyncio.sleep(self._random.uniform(0, 3))
            if kind == "stopped":
                await self._http.post(f"/api/v2/training/{task_id}/stop")
            else:
                while not await asyncio.to_thread(_kill_trainer, task_id):  # noqa: ASYNC110 - it is only starting
                    await asyncio.sleep(0.1)
        await self._end(task_id, f"command, {kind}")

    async def _start(self, body: dict[str, Any]) -> str:
        answer = (await self._http.post("/api/v2/training/start", json=body)).raise_for_status()
        task_id = str(answer.json()["task_id"])
        self.live.append(task_id)
        return task_id

    async def _until_running(self, task_id: str) -> None:
        while await self._status(task_id) in ("pending", "queued"):  # noqa: ASYNC110 - only the service knows
            await asyncio.sleep(0.1)

    async def _end(self, task_id: str, kind: str) -> None:
        while (status := await self._status(task_id)) not in ("completed", "failed", "cancelled"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        self.counts[f"{kind}: {status}"] += 1
        self.live.remove(task_id)
        self.ended.append(task_id)
        if self._random.random() < 0.5:
            await self._http.delete(f"/api/v2/training/{task_id}")

    async def _status(self, task_id: str) -> str:
        answer = (await self._http.get(f"/api/v2/training/{task_id}")).raise_for_status()
        return str(answer.json()["status"])


def _kill_trainer(task_id: str) -> bool:
    """Whether there was one to kill."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if PRINTER in process.cmdline() and process.environ().get("TRAINING_TASK_ID") == task_id:
                process.kill()
                return True
    return False
