"""Work done ahead by threads, in the order in which it is asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TypeVar

import torch

MOST_READERS = 16

Result = TypeVar("Result")
Loaded = Iterator[Callable[[], Result]]
"""For each index what gives its result, or raises what loading it has raised."""


def readers_for(device: torch.device) -> int:
    """How many threads read for a training on `device`.

    A GPU leaves the cores idle, and one of them decodes a twentieth of what it can take (doc/PERFORMANCE.md).
    On the CPU none: where the training has all cores, decoding beside it costs more than it gives.
    """
    return min(MOST_READERS, len(os.sched_getaffinity(0))) if device.type == "cuda" else 0


@contextmanager
def in_order(
    load: Callable[[int], Result], indices: Iterable[int], *, readers: int, ahead: int
) -> Iterator[Loaded[Result]]:
    """`load` of each index, at most `ahead` of them before they are asked for; without readers, none.

    Pillow lets go of Python's lock while it decodes and scales; what is left of the work is done by one thread at
    a time, and is the limit of this. None of them is left at the end.
    """
    if not readers:
        yield (partial(load, index) for index in indices)
        return
    pool = ThreadPoolExecutor(readers, thread_name_prefix="read")
    try:
        yield _ahead(pool, load, iter(indices), ahead)
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, load: Callable[[int], Result], indices: Iterator[int], ahead: int
) -> Loaded[Result]:
    waiting = deque(pool.submit(load, index) for index in islice(indices, ahead))
    while waiting:
        first = waiting.popleft()
        yield first.result
        waiting.extend(pool.submit(load, index) for index in islice(indices, 1))
