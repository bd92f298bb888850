"""Opening a store: engine, ownership, schema.

SQLite is one file in WAL mode with one writing connection (SQLite before 3.51.3 can lose a WAL frame when
several connections write); PostgreSQL is reached through psycopg 3. Exactly one service process owns a
store, because it hands out the sequence numbers.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

from services.errors import StoreInUse
from services.storage.tables import SCHEMA_REVISION

logger = logging.getLogger(__name__)

Synchronous = Literal["OFF", "NORMAL", "FULL", "EXTRA"]
BUSY_TIMEOUT_S = 10
_ADVISORY_LOCK = 0x7472_6169_6E  # "train"


class Database:
    """An open, owned and up-to-date store.

    Raises:
        StoreInUse: another process owns it.
        sqlalchemy.exc.DBAPIError: it cannot be opened, or it is no database.
    """

    def __init__(self, url: str | URL, *, synchronous: Synchronous = "NORMAL") -> None:
        self.url = make_url(url)
        self._synchronous = synchronous
        self._lock: IO[str] | None = None
        self._writing: Connection | None = None
        if self.is_sqlite:
            self.sqlite_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # requests may hold secrets
        self.engine: Engine = create_engine(
            self.url,
            hide_parameters=True,  # an error would show them in the service's log: secrets of a command, lines
            **self._engine_options(),
        )
        if self.is_sqlite:
            event.listen(self.engine, "connect", self._configure_sqlite)
        try:
            if self.is_sqlite:
                self._lock = self._lock_file()
            self._writing = self._open_writing()
            self._migrate()
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

    def close(self) -> None:
        """Give up ownership and all connections."""
        self._close_writing()
        self.engine.dispose()
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction on the one connection that writes. For one thread at a time.

        On PostgreSQL the same connection holds the ownership of the store, so that nothing can be written
        without it: where the connection was lost, both are taken again, or neither.

        Raises:
            StoreInUse: another process has taken the store over meanwhile.
        """
        if self._writing is None:
            self._writing = self._open_writing()
        try:
            with self._writing.begin():
                yield self._writing
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
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={self._synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    def _lock_file(self) -> IO[str]:
        path = self.sqlite_path.with_name(self.sqlite_path.name + ".lock")
        lock = path.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise StoreInUse(_in_use(str(self.sqlite_path))) from error
        return lock

    def _open_writing(self) -> Connection:
        connection = self.engine.connect()
        connection.detach()  # not the pool's any more: closing it ends the session, and with it the lock
        if not self.is_sqlite:
            owned = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            connection.commit()
            if not owned:
                connection.close()
                raise StoreInUse(_in_use(self.url.render_as_string(hide_password=True)))
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
                if revision == SCHEMA_REVISION:
                    return
        from services.storage.migrations import upgrade

        logger.info("Bringing the store to schema revision %s", SCHEMA_REVISION)
        upgrade(self.engine)


def _in_use(where: str) -> str:
    return (
        f"Another service process is using the store {where}. One process owns a store: stop the other one, "
        "give this one its own STATE_DIR or DATABASE_URL, and do not use `uvicorn --workers`."
    )
