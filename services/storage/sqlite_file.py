"""The file of an SQLite store: whose it is, what is in it, and whether it is still the one that was opened.

SQLite alone answers none of this in time. It would turn another program's database into one of ours, begin an
empty one where the old one has vanished, and go on writing into a file that nobody finds any more.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from services.errors import StoreInUse, StoreUnusable

logger = logging.getLogger(__name__)

_OURS, _REVISION = frozenset({"tasks", "log_entries", "metric_points"}), "alembic_version"
"""Tables that every store has had from its first release on."""
_OPEN, _CLOSED, _REPLACING = "in use", "closed", "replacing"
_NOTE = "{} {:020d}"
"""In the lock file: whether the store is in use, and its bytes. Always as long, so that a full disk takes a change."""


class _Identity(NamedTuple):
    device: int
    inode: int


class LogLost(StoreUnusable):
    """Its lines are still within reach of the connections that have it open."""


class SqliteFile:
    """Args:
    path: as it was given; links are followed, so that a store has one lock whatever it is called.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._wal_path = self._beside("-wal")
        self._lock_path = self._beside(".lock")
        self._locks: list[int] = []
        self._file: _Identity | None = None
        self._wal: _Identity | None = None
        self._size = 0

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    @property
    def uri(self) -> str:
        """For connections: SQLite itself must never make the file, which would be another one."""
        return f"{self.path.as_uri()}?mode=rw"

    def size(self) -> int:
        """Bytes of the file and its write-ahead log. Raises: OSError: it is gone."""
        return self.path.stat().st_size + (_size_of(self._wal_path) or 0)

    def claim(self) -> None:
        """Become the owner of the store, whose file is made where there is none, until `release`.

        The lock is on the lock file, and on the store's own as well: names of it that are no links, and a lock
        file that has been deleted, lead there too.

        Raises:
            StoreInUse: another process is.
            StoreUnusable: it cannot be written to, or is no store of this service. It is left as it was.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # requests may hold secrets
            self._lock(self._lock_path)
            self._look_for_losses(*self._noted())
            self._lock(self.path)
        except OSError as error:
            raise StoreUnusable(f"The store {self.path} cannot be written to: {error.strerror or error}.") from error

    def replace_with(self, prepared: Path) -> Path | None:
        """Put another store, which is in the same folder, in the place of this one; returns where this one is kept.

        Where it is cut short, no service begins until it is done again.

        Raises:
            StoreInUse: a service owns this one.
            OSError: the folder cannot be written to.
        """
        kept = None
        try:
            self._lock(self._lock_path)
            if self.path.exists():
                self._lock(self.path)
                kept = self._beside(f".before-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            self._note(_REPLACING)
            os.fsync(self._locks[0])
            for suffix in ("-wal", "-shm", ""):
                found = self._beside(suffix)
                if found.exists() and kept is not None:
                    found.rename(kept.with_name(kept.name + suffix))
                else:
                    found.unlink(missing_ok=True)  # of a store that is gone, of which it is no use
            prepared.rename(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            self._locks.append(folder)
            os.fsync(folder)
            self._size = _size_of(self.path) or 0
            self._note(_CLOSED)
        finally:
            self.release()
        return kept

    def _lock(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._locks.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreInUse(in_use(str(self.path))) from None

    def _look_for_losses(self, noted: str, noted_size: int) -> None:
        """Raises: StoreUnusable: an empty store, or a part, would take the place of one that had something in it."""
        size, log_size = _size_of(self.path), _size_of(self._wal_path)
        if noted == _REPLACING:
            raise StoreUnusable(f"A restore of {self.path} was cut short: run it again.")
        if size is None and log_size:
            loss = f"is gone, but a part of it is still there: {self._wal_path}"
        elif size == 0 and noted:
            loss = "is empty, though it was not when a service last had it open"
        elif size and log_size and size < noted_size:  # without a log SQLite sees it
            loss = f"has been cut short: it has {size} bytes of {noted_size}"
        else:
            if size and log_size is None and noted == _OPEN:
                logger.warning(
                    "%s is missing, though the last service did not end in order. Unless another program has put it "
                    "into %s since, the last lines of that service are lost with it.",
                    *(self._wal_path, self.path.name),
                )
            return
        raise StoreUnusable(
            f"The store {self.path} {loss}. Put the file back, from a backup perhaps, or begin anew by moving away "
            f"{self.path.name}, {self._wal_path.name} and {self._lock_path.name}."
        )

    def revision(self, timeout_s: float) -> str | None:
        """Which revision of the schema it has, without changing one byte; `None` where there is nothing in it yet.

        Raises:
            StoreUnusable: it is not a store of this service.
            sqlite3.Error: it is no database, damaged, or another program holds it locked.
        """
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=timeout_s)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return None
            if not tables >= {*_OURS, _REVISION}:
                raise StoreUnusable(
                    f"The database {self.path} belongs to another program: {_some(tables)} is in it. It was left "
                    "as it is; give this service a STATE_DIR or a DATABASE_URL of its own."
                )
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return None if row is None else str(row[0])

    def opened(self) -> None:
        """From now on it is this file, and this log beside it. Call it once a connection is open."""
        self._file, self._wal = _identity_at(self.path), _identity_at(self._wal_path)
        self._size = _size_of(self.path) or 0
        self._note(_OPEN)

    def closing(self) -> None:
        """Call it before the last connection is closed, which takes the write-ahead log away."""
        if self._file is not None:
            self._note(_CLOSED)

    def verify(self, pages: Callable[[], int]) -> None:
        """Make sure that whoever opens the store next finds what is committed now. Costs two calls of the system.

        Args:
            pages: bytes of all pages, as a connection counts them; only asked where the file has shrunk.

        Raises:
            LogLost: the write-ahead log is gone, the file itself is not.
            StoreUnusable: another file is where it was, or none, or only a part of it.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise StoreUnusable(f"{self.path.name} is gone: put it back where it was.") from None
        if _identity(found) != self._file:
            raise StoreUnusable(f"{self.path.name} is another file now: put the one back that was there.")
        if found.st_size < self._size and found.st_size < min(self._size, pages()):
            raise StoreUnusable(f"{self.path.name} has been cut short: end the service, and restore it from a backup.")
        if found.st_size != self._size:
            self._size = found.st_size
            self._note(_OPEN)
        wal = _identity_at(self._wal_path)
        if self._wal is not None and wal != self._wal:
            raise LogLost(f"{self._wal_path.name} has been removed: what is in it is being saved.")
        self._wal = wal

    def release(self) -> None:
        """Give up ownership. Call it when every connection is closed: this ends SQLite's own locks as well."""
        self._file = None
        while self._locks:
            os.close(self._locks.pop())

    def _note(self, what: str) -> None:
        with suppress(OSError):  # a full disk, and a new file
            os.pwrite(self._locks[0], _NOTE.format(what, self._size).encode("ascii"), 0)

    def _noted(self) -> tuple[str, int]:
        """Nothing, where no service has had the store open, or an older release."""
        words = os.pread(self._locks[0], 64, 0).decode("ascii", "replace").rpartition(" ")
        return (
            (words[0], int(words[2])) if words[0] in (_OPEN, _CLOSED, _REPLACING) and words[2].isdecimal() else ("", 0)
        )


def _some(tables: set[str]) -> str:
    """Of the tables that give another program away."""
    named = sorted(tables - _OURS - {_REVISION}) or sorted(tables)
    return ", ".join(repr(name) for name in named[:3])


def in_use(where: str) -> str:
    return (
        f"Another service process is using the store {where}. One process owns a store: stop the other one, "
        "give this one its own STATE_DIR or DATABASE_URL, and do not use `uvicorn --workers`."
    )


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _identity(found: os.stat_result) -> _Identity:
    return _Identity(found.st_dev, found.st_ino)


def _identity_at(path: Path) -> _Identity | None:
    try:
        return _identity(path.stat())
    except FileNotFoundError:
        return None
