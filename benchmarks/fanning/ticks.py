"""Log lines at a steady rate, each with the time at which it was due: one that is written late is late.

They begin once a file is there: viewers come first, so that none has a backlog to read.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

RATE = float(os.environ.get("FAN_OUT_RATE", "50"))
"""Lines a second."""
GO = "FAN_OUT_BEGINS"
"""Environment variable with the path of the file."""
WRITTEN = re.compile(rb"\(at (\d+\.\d{6})\)")
"""The time in a line, in seconds of the monotonic clock, wherever it stands in a frame."""
METRICS = {"epoch": 1, "total_epochs": 1, "total_steps": 1_000_000, "train_loss": 0.5234, "train_acc": 82.45}
_LOOK_EVERY_S = 0.05


def line(number: int, due: float) -> str:
    loss, accuracy = METRICS["train_loss"], METRICS["train_acc"]
    return f"Epoch [1/1], Step [{number}/1000000], Train Loss: {loss}, Train Accuracy: {accuracy}% (at {due:.6f})"


def number_of(text: bytes) -> int:
    """Of the last line in a text."""
    begin = text.rindex(b"Step [") + len(b"Step [")
    return int(text[begin : text.index(b"/", begin)])


def ticks(should_stop: Callable[[], bool]) -> Iterator[str]:
    """The lines, in a thread."""
    while not _may_begin() and not should_stop():
        time.sleep(_LOOK_EVERY_S)
    began = time.monotonic()
    for number in itertools.count(1):
        due = began + number / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        if should_stop():
            return
        yield line(number, due)


async def async_ticks() -> AsyncIterator[tuple[int, str]]:
    """The lines and their numbers, in an event loop."""
    while not _may_begin():  # noqa: ASYNC110 - another process makes the file
        await asyncio.sleep(_LOOK_EVERY_S)
    began = time.monotonic()
    for number in itertools.count(1):
        due = began + number / RATE
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield number, line(number, due)


def _may_begin() -> bool:
    return Path(os.environ[GO]).exists()
