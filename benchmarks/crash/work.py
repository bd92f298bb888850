"""The tasks of the crash test: what is started, where it writes, and which process trains."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.crash.ledger import Kind, Task
from services.executors.supervisor import RECORD, Process, is_alive

PRINTER = """\
import sys, time
name, lines, at_a_time, pause, status = sys.argv[1], *map(int, sys.argv[2:4]), float(sys.argv[4]), int(sys.argv[5])
for number in range(1, lines + 1):
    print(f"line {number} of {name}")
    if number % at_a_time == 0:
        sys.stdout.flush()
        time.sleep(pause)
sys.stdout.flush()
sys.exit(status)
"""
PRINTED = {Kind.PRINTER: (400, 1, 0.005), Kind.ENDLESS: (1_000_000, 1, 0.04), Kind.FLOOD: (6000, 150, 0.05)}
"""Lines, how many of them at a time, and the seconds between."""
CLASSES = ("one", "two", "three")
PRIORITIES = {Kind.FLOOD: 1, Kind.THREAD: 1, Kind.WAITING: 10}
"""Where it is not the default: some are wanted at once, some are to wait."""
SPLIT_SIZE = 8
"""Images of a class in each split: an epoch takes a few tenths of a second."""


class Work:
    """Makes tasks; `folder` has the images and gets the runs."""

    def __init__(self, folder: Path, state_dir: Path, random_: random.Random) -> None:
        self._folder = folder
        self._state_dir = state_dir
        self._random = random_
        self._numbers = itertools.count(1)

    def write_images(self) -> None:
        for split in ("train", "val"):
            for shade, name in enumerate(CLASSES):
                target = self._folder / split / name
                target.mkdir(parents=True)
                for number in range(SPLIT_SIZE):
                    image = Image.effect_noise((32, 32), 20 + 60 * shade)
                    image.save(target / f"{number}.png")

    def new(self, kind: Kind) -> Task:
        """A task that nobody has started yet. Its id is the client's own, so that a lost answer can be asked for."""
        number = next(self._numbers)
        task_id = f"{kind.name.lower()}-{number}"
        if kind in PRINTED:
            return self._command(kind, task_id)
        name = f"run of {task_id}" if self._random.random() < 0.5 else None
        body = self._built_in(kind) | ({"name": name} if name else {})
        return Task(task_id, kind, {"task_id": task_id, **body}, self._folder / "runs" / (name or task_id))

    def _command(self, kind: Kind, task_id: str) -> Task:
        total, at_a_time, pause = PRINTED[kind]
        status = self._random.choice((0, 0, 3))
        arguments = [task_id, str(total), str(at_a_time), str(pause), str(status)]
        command = [sys.executable, "-S", "-c", PRINTER, *arguments]
        body = {
            "task_id": task_id,
            "command": command,
            "working_dir": str(self._folder),
            "device": "cpu",
            "priority": PRIORITIES.get(kind, 5),
        }
        return Task(task_id, kind, body, self.run_dir(task_id), total=total, returncode=status)

    def _built_in(self, kind: Kind) -> dict[str, Any]:
        return {
            "model": "mobilenet_v3_small",
            "num_classes": len(CLASSES),
            "train_path": str(self._folder / "train"),
            "val_path": str(self._folder / "val"),
            "save_path": str(self._folder / "runs"),
            "num_epochs": 1 if kind is Kind.WAITING else self._random.choice((200, 2000)),
            "image_size": 32,
            "device": "cpu",
            "executor": "thread" if kind is Kind.THREAD else "process",
            "pretrained": False,
            "priority": PRIORITIES.get(kind, 5),
        }

    def run_dir(self, task_id: str) -> Path:
        """The service's own folder for a task; a trainer's output is in it."""
        return self._state_dir / "runs" / task_id

    def end_all(self) -> None:
        """End what still runs when the test itself is cut short."""
        for record in self._state_dir.glob(f"runs/*/{RECORD}"):
            supervisor = Process(*json.loads(record.read_bytes())["supervisor"])
            if is_alive(supervisor):
                os.kill(supervisor.pid, signal.SIGTERM)

    def trainer_of(self, task: Task) -> Process | None:
        """The process that trains, or runs the command; `None` where there is none at the moment."""
        try:
            record = json.loads((self.run_dir(task.task_id) / RECORD).read_bytes())
        except FileNotFoundError:
            return None
        process = Process(*record["trainer"]) if "trainer" in record else None
        return process if process is not None and is_alive(process) else None
