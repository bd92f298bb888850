"""A store that takes no writes, for a reason that is real."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody else writes to an SQLite file, for longer than a writer waits for its turn.

    That is ten seconds, so a test wants `services.storage.database.BUSY_TIMEOUT_S` to be less.
    """
    with closing(sqlite3.connect(file, isolation_level=None)) as intruder:
        intruder.execute("BEGIN EXCLUSIVE")
        yield
        intruder.execute("ROLLBACK")
