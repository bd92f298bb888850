"""A service that has no descriptor left, for the thread of one task, while nothing happens to its trainer."""

from __future__ import annotations

import builtins
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.services.executors.task import PATIENCE_S


@contextmanager
def nothing_can_be_opened(error: int) -> Iterator[Callable[[int], None]]:
    """By threads other than that of the test. Gives what waits until they have tried so many times."""
    refusals = threading.Semaphore(0)
    of_the_test = threading.current_thread()

    def refusing(opens: Any) -> Any:
        def open_or_refuse(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is of_the_test:
                return opens(*arguments, **named)
            refusals.release()
            raise OSError(error, os.strerror(error))

        return open_or_refuse

    def tried(times: int) -> None:
        for _ in range(times):
            assert refusals.acquire(timeout=PATIENCE_S), "it was not tried again"

    with pytest.MonkeyPatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(module, "open", refusing(open))
        yield tried
