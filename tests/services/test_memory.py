"""Memory that was freed goes back to the machine when it is asked for, and is not looked through too often."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

import psutil
import pytest

from services.memory import collect_seldom, release_free_memory

BLOCK = 2**16
"""Bytes: too small for a mapping of its own, which would go back by itself."""
BLOCKS = 1600


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library, which keeps nothing")
def test_freed_memory_below_memory_in_use_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    *freed, last = blocks
    for block in freed:
        libc.free(block)
    kept = resident()
    release_free_memory()
    assert kept - resident() > BLOCK * BLOCKS // 2
    libc.free(last)


@pytest.fixture
def often() -> Iterator[tuple[int, int, int]]:
    """Python's own thresholds; a service that other tests share may run in this process."""
    before, often = gc.get_threshold(), (700, 10, 10)
    gc.set_threshold(*often)
    yield often
    gc.set_threshold(*before)


def test_garbage_is_collected_seldom_only_while_the_service_runs(often: tuple[int, int, int]) -> None:
    gc.unfreeze()
    with collect_seldom():
        assert gc.get_threshold()[0] > often[0]
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == often
    assert gc.get_freeze_count() == 0


def test_garbage_is_collected_all_the_same() -> None:
    class Loop:
        gone = 0

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            Loop.gone += 1

    with collect_seldom():
        for _ in range(3 * gc.get_threshold()[0]):
            Loop()
        assert Loop.gone > 0
