"""Writing `last.pt` while a GPU goes on.

A checkpoint is written, read back and brought to the disk twice as long as a small epoch takes on a GPU, which has
nothing to do meanwhile. So there what is saved is copied, and another thread writes it. On the CPU it would take from
the training what it gives, and whoever reads that an epoch is finished finds its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Saving:
    """One write at a time, and none begun before the one before is done.

    The first one is waited for: from the second epoch on there is something to go on from.

    Args:
        beside: write in a thread.
    """

    def __init__(self, *, beside: bool) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save") if beside else None
        self._last: Future[None] | None = None
        self._is_first = True

    def run(self, write: Callable[[], None]) -> None:
        """Raises what the write before has raised, or, where nothing is written beside, this one."""
        self.wait()
        if self._pool is None or self._is_first:
            write()
            self._is_first = False
        else:
            self._last = self._pool.submit(write)

    def wait(self) -> None:
        """Until all is written. Raises what that has raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """As `wait`, for good."""
        if self._pool is not None:
            self._pool.shutdown()
        self.wait()
