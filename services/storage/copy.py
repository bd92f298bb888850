"""Copies a store into an empty one, of whichever kind, and compares the two.

    python -m services.storage.copy sqlite:///state/training.db postgresql+psycopg://user:password@host/database

Both stores are owned meanwhile, so no service can use them. Every row keeps its ids and numbers, and the next ones go
on behind them. Until both have been compared the target says that it is unfinished: no service opens it, and another
copy into it begins anew. The source is brought up to date as a start of the service would, and changed no further.

Exit status: 0 copied and compared; 1 it did not work, and why is said; 2 wrong arguments; 3 a service uses one of the
stores; 4 there is something in the target.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, delete, func, insert, select, text, tuple_
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from services.errors import ServiceError, StoreInUse
from services.storage.database import COPYING, Database
from services.storage.tables import SCHEMA_REVISION, metadata, ownership

BATCH = 2_000
"""Rows read, and written in one transaction, at a time."""
PROGRESS_S = 2.0
DONE, FAILED, USAGE, IN_USE, NOT_EMPTY = range(5)

TABLES: Sequence[Table] = [table for table in metadata.sorted_tables if table is not ownership]
"""Those that others refer to first. Who owns a store is no part of what is in it."""


class CopyFailed(Exception):
    """Why there is no copy, in a sentence; and the exit status."""

    def __init__(self, why: str, status: int = FAILED) -> None:
        super().__init__(why)
        self.status = status


class Digest:
    """How many rows, and what is in them, whatever their order: the order of texts is each database's own."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, row: RowMapping) -> None:
        content = json.dumps([_plain(value) for value in row.values()], ensure_ascii=True)
        self.rows += 1
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(content.encode()).digest())) % 2**256

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and (self.rows, self._sum) == (other.rows, other._sum)

    __hash__ = None  # type: ignore[assignment] # it changes


class Progress:
    """Says on stderr now and then how far one table is."""

    def __init__(self, doing: str, table: Table, total: int) -> None:
        self._what, self._total = f"{doing} {table.name}", total
        self._next = time.monotonic() + PROGRESS_S

    def tell(self, rows: int) -> None:
        if time.monotonic() >= self._next or rows == self._total:
            self._next = time.monotonic() + PROGRESS_S
            print(f"{self._what}: {rows} of {self._total} rows", file=sys.stderr, flush=True)


def copy(source: Database, target: Database) -> int:
    """Fill the target; returns how many rows were copied and found in it again.

    Raises:
        CopyFailed: there is something in the target, or it does not hold what the source does.
        ServiceError, SQLAlchemyError: a store cannot be read or written.
    """
    with target.writing() as connection:
        _refuse_unless_empty(connection, target)
        _set_revision(connection, COPYING + SCHEMA_REVISION)
    for table in reversed(TABLES):  # what a copy that was broken off has left
        with target.writing() as connection:
            connection.execute(delete(table))
    digests = {table.name: _copy_table(source, target, table) for table in TABLES}
    with source.engine.connect() as reading, target.writing() as connection:
        for table in TABLES:
            if _has_numbers(table):
                _set_last_number(connection, table, _last_number(reading, table))
    for table in TABLES:
        _compare(source, target, table, digests[table.name])
    with target.writing() as connection:
        _set_revision(connection, SCHEMA_REVISION)
    return sum(digest.rows for digest in digests.values())


def _refuse_unless_empty(connection: Connection, target: Database) -> None:
    if str(connection.scalar(text("SELECT version_num FROM alembic_version"))).startswith(COPYING):
        return
    filled = [table.name for table in TABLES if connection.execute(select(table).limit(1)).first() is not None]
    if filled:
        raise CopyFailed(f"There is something in {target.name}: {', '.join(filled)}. It was left as it is.", NOT_EMPTY)


def _copy_table(source: Database, target: Database, table: Table) -> Digest:
    with source.engine.connect() as connection:
        total = connection.scalar(select(func.count()).select_from(table)) or 0
    digest, progress = Digest(), Progress("Copying", table, total)
    for rows in _batches(source, table):
        with target.writing() as connection:
            connection.execute(insert(table), [dict(row) for row in rows])
        for row in rows:
            digest.add(row)
        progress.tell(digest.rows)
    return digest


def _compare(source: Database, target: Database, table: Table, expected: Digest) -> None:
    found, progress = Digest(), Progress("Comparing", table, expected.rows)
    for rows in _batches(target, table):
        for row in rows:
            found.add(row)
        progress.tell(found.rows)
    if found != expected:
        raise CopyFailed(f"{table.name}: {target.name} does not hold what {source.name} does.")
    if _has_numbers(table):
        with source.engine.connect() as one, target.engine.connect() as other:
            if _last_number(one, table) != _last_number(other, table):
                raise CopyFailed(
                    f"{table.name}: the next row would not get the number that it would get in the source."
                )


def _batches(database: Database, table: Table) -> Iterator[Sequence[RowMapping]]:
    """All rows, in the order of their key."""
    key = list(table.primary_key.columns)
    query = select(table).order_by(*key).limit(BATCH)
    after: tuple[Any, ...] | None = None
    while True:
        page = query if after is None else query.where(tuple_(*key) > after)
        with database.engine.connect() as connection:
            rows = connection.execute(page).mappings().all()
        if not rows:
            return
        yield rows
        after = tuple(rows[-1][column.name] for column in key)


def _has_numbers(table: Table) -> bool:
    """Whether the database numbers its rows, and never gives the number of a deleted one again."""
    return table.primary_key.columns.values()[0].autoincrement is True


def _last_number(connection: Connection, table: Table) -> int:
    if connection.dialect.name == "sqlite":
        query = text("SELECT seq FROM sqlite_sequence WHERE name = :table")
        return connection.scalar(query, {"table": table.name}) or 0
    last, is_used = connection.execute(text(f"SELECT last_value, is_called FROM {_sequence(connection, table)}")).one()  # noqa: S608 - named by the server
    return int(last) if is_used else 0


def _set_last_number(connection: Connection, table: Table, number: int) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), {"table": table.name})
        if number:
            values = {"table": table.name, "number": number}
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :number)"), values)
        return
    values = {"sequence": _sequence(connection, table), "number": number or 1, "is_used": number > 0}
    connection.execute(text("SELECT setval(CAST(:sequence AS regclass), :number, :is_used)"), values)


def _sequence(connection: Connection, table: Table) -> str:
    return str(connection.scalar(text("SELECT pg_get_serial_sequence(:table, 'id')"), {"table": table.name}))


def _set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m services.storage.copy", description="Copy a store into an empty one, and compare the two."
    )
    parser.add_argument("source", metavar="FROM_URL", help="e.g. sqlite:///state/training.db")
    parser.add_argument("target", metavar="TO_URL", help="e.g. postgresql+psycopg://user:password@host/database")
    given = parser.parse_args(arguments)
    try:
        source, target = make_url(given.source), make_url(given.target)
        if source.get_backend_name() == "sqlite":
            _refuse_unless_there(source.database)
        with closing(Database(source)) as one, closing(Database(target, may_be_unfinished=True)) as other:
            rows = copy(one, other)
            print(f"{rows} rows were copied from {one.name} to {other.name}; both hold the same.")
    except CopyFailed as failure:
        return _say(str(failure), failure.status)
    except (ArgumentError, NoSuchModuleError) as error:
        return _say(f"This is no URL of a store: {error}", USAGE)
    except StoreInUse as error:
        return _say(str(error), IN_USE)
    except (ServiceError, SQLAlchemyError, OSError) as error:
        return _say(" ".join(str(error).split()), FAILED)
    except KeyboardInterrupt:
        return _say("The copy was broken off. What is in the target is not used; copy again to begin anew.", FAILED)
    return DONE


def _refuse_unless_there(path: str | None) -> None:
    if not path or not Path(path).is_file():
        raise CopyFailed(f"There is no store {path or 'in memory'} to copy from.")


def _say(why: str, status: int) -> int:
    print(why, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
