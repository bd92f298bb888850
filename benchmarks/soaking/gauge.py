"""What a running process holds, read from /proc, and whether it grows."""

from __future__ import annotations

import asyncio
import csv
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from math import sqrt
from pathlib import Path
from statistics import linear_regression, mean
from typing import NamedTuple

import psutil

MIB = 2**20
GROUP_S = 15.0
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


class Growth(NamedTuple):
    """MiB a minute, and the standard error of that."""

    slope: float
    error: float


def growth(samples: Sequence[Sample], value: Callable[[Sample], float]) -> Growth:
    """The least-squares line through the mean of every 15 seconds.

    What trainings need for a moment is in one sample as in the next, so single samples would seem to know more
    than they do.
    """
    groups: defaultdict[int, list[Sample]] = defaultdict(list)
    for each in samples:
        groups[int((each.at - samples[0].at) // GROUP_S)].append(each)
    assert len(groups) > 2, "a line with an error needs three points"
    minutes = [mean(each.at / 60 for each in group) for group in groups.values()]
    values = [mean(map(value, group)) for group in groups.values()]
    slope, intercept = linear_regression(minutes, values)
    spread = sum((minute - mean(minutes)) ** 2 for minute in minutes)
    residuals = sum((each - intercept - slope * minute) ** 2 for minute, each in zip(minutes, values, strict=True))
    return Growth(slope, sqrt(residuals / (len(groups) - 2) / spread))


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
