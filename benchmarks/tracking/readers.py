"""How many values another process can read: from the file that the tracker writes, as it is at the moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

VALUES = 3
"""Of each step."""
Count = Callable[[], int]
BLOCK, HEADER = 32_768, 7
"""Bytes of the blocks of a LevelDB log and of the head of each piece of a record in it: checksum, length, kind."""
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
"""Kinds of pieces. Source: LevelDB's doc/log_format.md."""
WANDB_HEAD = 7
"""Bytes at the beginning of W&B's file that say what it is."""


def count_points(folder: Path) -> Count:
    return _rows(folder / "training.db", "SELECT count(*) FROM metric_points")


def count_mlflow(folder: Path) -> Count:
    return _rows(folder / "mlflow.db", "SELECT count(*) FROM metrics")


def count_trackio(folder: Path) -> Count:
    return _rows(folder / "race.db", f"SELECT {VALUES} * count(*) FROM metrics")


def _rows(path: Path, query: str) -> Count:
    """Asked over a connection of its own each time, as a program does that looks in now and then."""

    def count() -> int:
        if not path.exists():
            return 0
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            try:
                return int(connection.execute(query).fetchone()[0])
            except sqlite3.OperationalError:  # the table is not there yet
                return 0

    return count


def count_tensorboard(folder: Path) -> Count:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: list[Any] = []
    seen = 0

    def count() -> int:
        nonlocal seen
        if not found:
            found.extend(EventFileLoader(str(path)) for path in folder.glob("events.out.tfevents.*"))
        for loader in found:
            seen += sum(len(event.summary.value) for event in loader.Load())
        return seen

    return count


def count_wandb(folder: Path) -> Count:
    from wandb.proto import wandb_internal_pb2  # type: ignore[import-not-found]

    files: list[LevelDbLog] = []
    seen = 0

    def count() -> int:
        nonlocal seen
        if not files:
            files.extend(LevelDbLog(path) for path in folder.glob("wandb/offline-run-*/*.wandb"))
        for file in files:
            for record in file.read():
                parsed = wandb_internal_pb2.Record.FromString(record)
                seen += VALUES * parsed.HasField("history")
        return seen

    return count


class LevelDbLog:
    """Reads on in a log that is being written; what is not there whole is left for the next time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = WANDB_HEAD
        self._pieces: list[bytes] = []

    def read(self) -> list[bytes]:
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        records, at = [], 0
        while True:
            left = BLOCK - (self._position + at) % BLOCK
            if left < HEADER:
                at += left  # the end of a block, too short for a piece
                continue
            head = data[at : at + HEADER]
            size = int.from_bytes(head[4:6], "little")
            if len(head) < HEADER or len(data) < at + HEADER + size or not head[6]:
                break
            self._pieces.append(data[at + HEADER : at + HEADER + size])
            at += HEADER + size
            if head[6] in (FULL, LAST):
                records.append(b"".join(self._pieces))
                self._pieces.clear()
        self._position += min(at, len(data))
        return records
