"""Memory that is free again, given back to the machine.

glibc keeps what a thread frees for threads to come, in one of eight arenas a core, each with holes of its own. A
service with many short-lived threads that train networks holds several times of what it uses. Other C libraries
have neither of the calls below; then nothing is done. Source: malloc_trim(3), mallopt(3).

And Python looks for garbage as often as a small script needs it, each time through all that a service with many
viewers holds, in which nothing else runs.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_M_ARENA_MAX = -8
MAX_ARENAS = 2
_SELDOM = (20_000, 20, 20)
"""New objects after which the young ones are looked through; and every how many times of that, the older ones."""


def limit_arenas() -> None:
    """Let all threads share few arenas. To be called before there are threads, which keep the arena they have."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, MAX_ARENAS)


def release_free_memory() -> None:
    """Give back what a training has freed. Costs some 10 ms, in which other threads go on."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def collect_seldom() -> Iterator[None]:
    """Look for garbage less often, and never among what is there already, which stays for the whole run.

    Measured with 2,000 viewers of 50 lines a second (`benchmarks/streams.py`): half of the time in which the event loop
    was busy was the collector's, and the 99th percentile of the lines' delays was three times as long.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
