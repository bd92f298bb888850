"""What a running process holds, read from /proc, and whether it grows."""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import psutil

MIB = 2**20
LOOK_EVERY_S = 1.0
SETTLED_S = 15.0
"""Nothing has changed for so long: longer than idle worker threads (10 s) and idle connections (5 s) are kept."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at one moment. Memory in MiB.

    Attributes:
        at: seconds of the monotonic clock.
        rss: all of its memory that is resident, code and mapped files included.
        anonymous: the part of it that is its own data. The rest changes with what the system keeps of files.
        pss: each page counted by its share, so it changes with what other processes map.
    """

    at: float
    rss: float
    anonymous: float
    pss: float
    descriptors: int
    threads: int
    children: int


def sample(process: psutil.Process) -> Sample:
    with process.oneshot():
        memory = process.memory_full_info()
        return Sample(
            time.monotonic(),
            memory.rss / MIB,
            (memory.rss - memory.shared) / MIB,
            memory.pss / MIB,
            process.num_fds(),
            process.num_threads(),
            len(process.children(recursive=True)),
        )


def write_csv(path: Path, samples: Sequence[Sample]) -> None:
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Sample))
        writer.writerows(astuple(each) for each in samples)


def growth(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """MiB a minute: the slope of the least-squares line."""
    assert len(samples) > 1, "a line needs two points"
    minutes = [each.at / 60 for each in samples]
    values = [value(each) for each in samples]
    middle, mean = sum(minutes) / len(minutes), sum(values) / len(values)
    spread = sum((minute - middle) ** 2 for minute in minutes)
    together = sum((minute - middle) * (each - mean) for minute, each in zip(minutes, values, strict=True))
    return together / spread


async def settled(process: psutil.Process, *, limit_s: float, touch: Callable[[], object]) -> Sample:
    """What the process holds at idle: once descriptors and threads have stayed the same for a while.

    `touch` sends a request now and then: idle worker threads end when the next piece of work comes.
    """
    began = last_change = time.monotonic()
    found = sample(process)
    while (now := time.monotonic()) - last_change < SETTLED_S and now - began < limit_s:
        await asyncio.sleep(LOOK_EVERY_S)
        await asyncio.to_thread(touch)
        before, found = found, sample(process)
        if (before.descriptors, before.threads) != (found.descriptors, found.threads):
            last_change = now
    return found
