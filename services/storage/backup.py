"""Copies an SQLite store while a service writes to it.

    python -m services.storage.backup DEST [--store URL]

DEST is a file that is not there yet, or a folder, in which the copy is named by the time; without a suffix such as
`.db` it is a folder, which is made. The copy is one read transaction of SQLite's online backup: all that was committed
before it began is in it, whole transactions only. The service goes on meanwhile. What is not in the store, such as
checkpoints and the output of running processes, is not in the copy.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL, make_url

from services.errors import ServiceError, StoreUnusable
from services.storage.database import BUSY_TIMEOUT_S, known_revisions
from services.storage.location import add_store_option
from services.storage.sqlite_file import SqliteFile

POSTGRESQL = "PostgreSQL has its own means: `pg_dump --format=custom --file=DEST URL`, while the service runs."


def backup(store: str | URL, destination: Path) -> Path:
    """Write a copy of a store to a new file, and look whether it is whole; returns the file.

    Raises:
        StoreUnusable: there is no such store, or none of this service; the copy is not whole.
        FileExistsError: there is something at the destination. It is left as it is.
        OSError, sqlite3.Error: the disk refuses.
    """
    source = sqlite_path(store, POSTGRESQL)
    if not source.exists():
        raise StoreUnusable(f"There is no store {source}: name the one to copy with --store.")
    if not destination.suffix and not destination.exists():
        destination.mkdir(mode=0o700)
    if destination.is_dir():
        destination /= f"training-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
    if destination.exists():
        raise FileExistsError(f"{destination} is there already: choose another name.")
    partial = destination.with_name(destination.name + ".part")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL, 0o600))  # requests may hold secrets
    try:
        copy_store(source, partial)
        verify(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.link(partial, destination)  # unlike a rename it replaces nothing
        sync_folder(destination.parent)
    finally:
        partial.unlink()
    return destination


def sqlite_path(store: str | URL, otherwise: str) -> Path:
    """Raises: StoreUnusable: the store is no SQLite file."""
    url = make_url(store)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise StoreUnusable(otherwise)
    return Path(url.database)


def copy_store(source: Path, copy: Path) -> None:
    """All pages in one step, so that writers, which go on, do not make it begin anew (sqlite3_backup_step)."""
    address = f"{source.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S)) as reading,
        closing(sqlite3.connect(copy, isolation_level=None)) as writing,
    ):
        reading.backup(writing, pages=-1)
        writing.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it


def verify(copy: Path) -> str:
    """Make sure that a file is a whole store of a release that this one knows; returns its revision.

    Raises:
        StoreUnusable: it is not.
    """
    try:
        revision = SqliteFile(copy).revision(BUSY_TIMEOUT_S)
        with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(1)")]
            found += [f"a row of {row[0]} without its task" for row in connection.execute("PRAGMA foreign_key_check")]
    except sqlite3.Error as error:
        raise StoreUnusable(f"{copy} cannot be read: {error}.") from error
    if found != ["ok"]:
        raise StoreUnusable(f"{copy} is damaged: {found[0]}.")
    if revision not in known_revisions():
        raise StoreUnusable(f"{copy} is of a release that this one does not know (schema revision {revision!r}).")
    return revision


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("destination", metavar="DEST", type=Path, help="a new file, or a folder")
    add_store_option(parser)
    arguments = parser.parse_args()
    try:
        copy = backup(arguments.store, arguments.destination)
    except (ServiceError, OSError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{copy}: {copy.stat().st_size:,} bytes, whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
