"""Memory that is free again, given back to the machine.

glibc keeps what a thread frees for threads to come, in one of eight arenas a core, each with holes of its own. A
service with many short-lived threads that train networks holds several times of what it uses. Other C libraries
have neither of the calls below; then nothing is done. Source: malloc_trim(3), mallopt(3).
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8
MAX_ARENAS = 2


def limit_arenas() -> None:
    """Let all threads share few arenas. To be called before there are threads, which keep the arena they have."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, MAX_ARENAS)


def release_free_memory() -> None:
    """Give back what a training has freed. Costs some 10 ms, in which other threads go on."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
