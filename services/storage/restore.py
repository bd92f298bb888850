"""Puts a backup in the place of an SQLite store that no service uses.

    python -m services.storage.restore FILE [--store URL]

FILE, a copy that `services.storage.backup` has made, stays as it is. What was in the store's place is kept beside it
under another name. The next service treats what ran when the copy was made as after a crash: trainings go on at their
last checkpoint, processes that still run are read on, what is gone is told.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL

from services.errors import ServiceError
from services.storage.backup import copy_store, sqlite_path, verify
from services.storage.location import add_store_option
from services.storage.sqlite_file import SqliteFile

POSTGRESQL = "PostgreSQL has its own means: stop the service, then `pg_restore --clean --if-exists --dbname=URL FILE`."


def restore(file: Path, store: str | URL) -> Path | None:
    """Replace a store by a backup, or leave all as it was; returns where the store that was there is kept.

    The new store is compact, and gives back the room of lines that are removed from now on.

    Raises:
        StoreInUse: a service owns the store.
        StoreUnusable: the file is no whole backup, or the place cannot be written to.
        OSError, sqlite3.Error: the disk refuses.
    """
    target = sqlite_path(store, POSTGRESQL).resolve()
    verify(file)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    prepared = target.with_name(f"{target.name}.restored.{os.getpid()}")
    os.close(os.open(prepared, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        copy_store(file, prepared)
        with closing(sqlite3.connect(prepared, isolation_level=None)) as connection:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("VACUUM")
        verify(prepared)
        with prepared.open("rb+") as written:
            os.fsync(written.fileno())
        return SqliteFile(target).replace_with(prepared)
    finally:
        prepared.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", type=Path, help="the backup")
    add_store_option(parser)
    arguments = parser.parse_args()
    try:
        kept = restore(arguments.file, arguments.store)
    except (ServiceError, OSError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.file} is the store now." + (f" The one before is kept: {kept}" if kept else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
