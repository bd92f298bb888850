"""Memory that is free again, given back to the machine."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def release_free_memory() -> None:
    """Give back what a training has freed. glibc would keep it, in an arena of each thread, for threads to come.

    Measured: ten minutes of small trainings in threads of the service, by `benchmarks/soak.py`, held 1.1 GiB
    without this. Costs some 10 ms, in which other threads go on. Protocol: malloc_trim(3); other C libraries
    have none.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
