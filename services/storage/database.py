"""Opening a store: engine, ownership, schema.

SQLite is one file in WAL mode with one writing connection (SQLite before 3.51.3 can lose a WAL frame when
several connections write); PostgreSQL is reached through psycopg 3. Exactly one service process owns a
store, because it hands out the sequence numbers.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

from services.errors import StoreInUse, StoreUnusable
from services.storage.sqlite_file import LogLost, SqliteFile, in_use
from services.storage.tables import SCHEMA_REVISION

logger = logging.getLogger(__name__)

Synchronous = Literal["OFF", "NORMAL", "FULL", "EXTRA"]
BUSY_TIMEOUT_S = 10
_ADVISORY_LOCK = 0x7472_6169_6E  # "train"
_MIGRATIONS = Path(__file__).parent / "migrations/versions"
"""Each in a file whose name begins with its revision, so that Alembic need not be imported to know them."""


def known_revisions() -> set[str]:
    """Of stores that this program can open."""
    return {SCHEMA_REVISION, *(path.name.partition("_")[0] for path in _MIGRATIONS.glob("*.py"))}


class Database:
    """An open, owned and up-to-date store.

    Raises:
        StoreInUse: another process owns it.
        StoreUnusable: it cannot be opened, or is no store of this service; it is left as it was.
    """

    def __init__(self, url: str | URL, *, synchronous: Synchronous = "NORMAL") -> None:
        self.url = make_url(url)
        self._synchronous = synchronous
        self._file = SqliteFile(self.sqlite_path) if self.is_sqlite else None
        self._writing: Connection | None = None
        self.engine: Engine = create_engine(
            self.url,
            hide_parameters=True,  # an error would show them in the service's log: secrets of a command, lines
            **self._engine_options(),
        )
        try:
            if self._file is not None:
                self._file.claim()
                self._check_revision(self._file.revision(BUSY_TIMEOUT_S))
                event.listen(self.engine, "do_connect", self._address_sqlite)
                event.listen(self.engine, "connect", self._configure_sqlite)
            self._writing = self._open_writing()
            self._migrate()
        except (DBAPIError, sqlite3.Error) as error:
            self.close()
            raise StoreUnusable(f"The store {self._name} cannot be opened: {_in_one_line(error)}.") from error
        except BaseException:
            self.close()
            raise

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def sqlite_path(self) -> Path:
        assert self.url.database, "the service needs an SQLite file, not a memory database"
        return Path(self.url.database)

    def size(self) -> int:
        """Bytes on the disk, the write-ahead log of SQLite included. Raises: DBAPIError, OSError."""
        if self._file is not None:
            return self._file.size()
        with self.engine.connect() as connection:
            return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)

    def close(self) -> None:
        """Give up ownership and all connections."""
        if self._file is not None:
            self._file.closing()
        self._close_writing()
        self.engine.dispose()
        if self._file is not None:
            self._file.release()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction on the one connection that writes. For one thread at a time.

        On PostgreSQL the same connection holds the ownership of the store, so that nothing can be written
        without it: where the connection was lost, both are taken again, or neither. The file of SQLite is looked
        at before and after: what a transaction has put into one that nobody will find is not committed.

        Raises:
            StoreInUse: another process has taken the store over meanwhile.
            StoreUnusable: the file has vanished, or is another one.
        """
        if self._writing is None:
            self._writing = self._open_writing()
        try:
            self._verify_or_save_log()
            with self._writing.begin():
                yield self._writing
            self._verify()
        except DBAPIError as error:
            if error.connection_invalidated or self._writing.closed or self._writing.invalidated:
                self._close_writing()
            raise

    def _engine_options(self) -> dict[str, Any]:
        if self.is_sqlite:
            return {"connect_args": {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}}
        return {"pool_pre_ping": True, "connect_args": {"connect_timeout": BUSY_TIMEOUT_S}}

    def _configure_sqlite(self, connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")  # has an effect on an empty file alone
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={self._synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    def _address_sqlite(self, _dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> None:
        assert self._file is not None
        arguments[0] = self._file.uri
        options["uri"] = True

    def _verify(self) -> None:
        if self._file is not None:
            self._file.verify(self._count_bytes)

    def _count_bytes(self) -> int:
        assert self._writing is not None
        with self._writing.begin():
            pages, size = (self._writing.scalar(text(f"PRAGMA {what}")) for what in ("page_count", "page_size"))
        return int(pages * size)

    def _verify_or_save_log(self) -> None:
        """A write-ahead log that was deleted is still open here: put it into the file itself, and begin a new one.

        Another connection would look into the new one for what only the old one has, so all are opened anew.
        """
        try:
            self._verify()
        except LogLost as lost:
            assert self._writing is not None
            with self._writing.begin():
                is_busy = self._writing.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).one()[0]
            if is_busy:
                raise
            logger.warning("%s It is all in the store again.", lost)
            self._close_writing()
            self.engine.dispose()
            self._writing = self._open_writing()

    def _open_writing(self) -> Connection:
        connection = self.engine.connect()
        connection.detach()  # not the pool's any more: closing it ends the session, and with it the lock
        if not self.is_sqlite:
            owned = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            connection.commit()
            if not owned:
                connection.close()
                raise StoreInUse(in_use(self._name))
        if self._file is not None:
            with connection.begin():
                connection.execute(text("SELECT 1 FROM sqlite_master LIMIT 1"))  # opens the write-ahead log
            self._file.opened()
        return connection

    def _close_writing(self) -> None:
        connection, self._writing = self._writing, None
        if connection is not None:
            with suppress(DBAPIError):  # a lost connection cannot even be closed in order
                connection.close()

    def _migrate(self) -> None:
        with self.engine.connect() as connection:
            if inspect(connection).has_table("alembic_version"):
                revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
                self._check_revision(revision)
                if revision == SCHEMA_REVISION:
                    return
        from services.storage.migrations import upgrade

        logger.info("Bringing the store to schema revision %s", SCHEMA_REVISION)
        upgrade(self.engine)

    def _check_revision(self, revision: str | None) -> None:
        """Raises: StoreUnusable: no migration of this program leads to it."""
        if revision is not None and revision not in known_revisions():
            raise StoreUnusable(
                f"The store {self._name} is of a newer release (schema revision {revision!r}; this one knows up to "
                f"{SCHEMA_REVISION!r}). It was left as it is: run that release, or give this one a store of its own."
            )

    @property
    def _name(self) -> str:
        return self.url.render_as_string(hide_password=True) if self._file is None else str(self._file.path)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split()).rstrip(".")
