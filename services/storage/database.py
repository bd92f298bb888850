"""Opening a store: engine, ownership, schema.

SQLite is one file in WAL mode with one writing connection (SQLite before 3.51.3 can lose a WAL frame when
several connections write); PostgreSQL is reached through psycopg 3. Exactly one service process owns a
store, because it hands out the sequence numbers. On PostgreSQL others may read it meanwhile, and take it over.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.errors import OwnershipLost, ReadReplica, StoreInUse, StoreUnusable
from services.storage.ownership import Holder, Ownership, Terms, look, may_take, take
from services.storage.sqlite_file import LogLost, SqliteFile, in_use
from services.storage.tables import SCHEMA_REVISION

logger = logging.getLogger(__name__)

Synchronous = Literal["OFF", "NORMAL", "FULL", "EXTRA"]
BUSY_TIMEOUT_S = 10
_ADVISORY_LOCK = 0x7472_6169_6E  # "train"
"""Held while the tables of a PostgreSQL store are made or changed; by releases before 0008, as long as they ran."""
COPYING = "copying-"
"""In front of the revision of a store that is being filled from another one, or has got a part of it."""
_LIVENESS = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
"""A server that is out of reach is missed within 20 s, not after the two hours of the system."""
_MIGRATIONS = Path(__file__).parent / "migrations/versions"
"""Each in a file whose name begins with its revision, so that Alembic need not be imported to know them."""


def known_revisions() -> set[str]:
    """Of stores that this program can open."""
    return {SCHEMA_REVISION, *(path.name.partition("_")[0] for path in _MIGRATIONS.glob("*.py"))}


class Database:
    """An open and up-to-date store, owned by this process.

    Args:
        terms: how it is owned, on PostgreSQL.
        may_follow: where another process owns a PostgreSQL store, open it all the same, to read.
        may_be_unfinished: open also what a copy has left that was broken off, if it was made by this release.

    Attributes:
        when_lost: called, by any thread and perhaps more than once, when another process has taken the store over.

    Raises:
        StoreInUse: another process owns it.
        StoreUnusable: it cannot be opened, or is no store of this service; it is left as it was.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        synchronous: Synchronous = "NORMAL",
        terms: Terms | None = None,
        may_follow: bool = False,
        may_be_unfinished: bool = False,
    ) -> None:
        self.url = make_url(url)
        self._may_be_unfinished = may_be_unfinished
        self.terms = terms or Terms()
        self.when_lost: Callable[[], None] = lambda: None
        self.owner: Holder | None = None
        self._ownership: Ownership | None = None
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
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
            if self.is_sqlite:
                self._writing = self._open_writing()
                self._migrate()
            else:
                self._migrate()
                with self.engine.connect() as connection:
                    self.owner = look(connection)
                if not (self._is_free(patient=may_follow) and self.take_over()):
                    may_follow &= self.owner is None or not self.owner.is_same_as(self.terms)
                    if not may_follow:
                        raise StoreInUse(in_use(self.name))
        except (DBAPIError, sqlite3.Error) as error:
            self.close()
            raise StoreUnusable(f"The store {self.name} cannot be opened: {_in_one_line(error)}.") from error
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

    @property
    def is_owner(self) -> bool:
        """Whether this process may write: it has become the owner, and does not know that another one has since."""
        return self.is_sqlite or (self._ownership is not None and not self._ownership.is_lost)

    @property
    def is_surely_owner(self) -> bool:
        """Whether nobody else can be: what ends for good, a process for example, is ended only then."""
        return self.is_sqlite or (self._ownership is not None and self._ownership.is_fresh)

    @property
    def connect_options(self) -> dict[str, Any]:
        """Of every connection to PostgreSQL, beside those of its URL."""
        return {"connect_timeout": BUSY_TIMEOUT_S, **_LIVENESS}

    @property
    def ownership(self) -> Ownership | None:
        """`None` with SQLite, and as long as another process owns the store."""
        return self._ownership

    def read_replica(self) -> ReadReplica:
        """What who wants to change something is told by a process that does not own the store."""
        address = self.owner.address if self.owner and not self.owner.is_released else ""
        return ReadReplica(address, max(1, round(self.terms.lease_s)))

    def look(self) -> Holder | None:
        """Who owns the PostgreSQL store now, or did last.

        Raises:
            DBAPIError: it cannot be read.
        """
        with self.engine.connect() as connection:
            self.owner = look(connection)
        return self.owner

    def take_over(self) -> bool:
        """Become the owner, unless somebody else was quicker than the last look, or has renewed his lease since.

        Raises:
            DBAPIError: the store cannot be written to.
        """
        with self.engine.connect() as connection:
            self._check_revision(connection.scalar(text("SELECT version_num FROM alembic_version")))
        connection = self.engine.connect()
        connection.detach()
        try:
            ownership = take(connection, self.engine, self.terms, self.owner)
        except BaseException:
            connection.close()
            raise
        if ownership is None:
            connection.close()
            return False
        self._writing, self._ownership, self.owner = connection, ownership, None
        self._keeper = threading.Thread(target=self._keep, name="store-lease", daemon=True)
        self._keeper.start()
        return True

    def size(self) -> int:
        """Bytes on the disk, the write-ahead log of SQLite included. Raises: DBAPIError, OSError."""
        if self._file is not None:
            return self._file.size()
        with self.engine.connect() as connection:
            return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)

    def close(self) -> None:
        """Give up ownership and all connections."""
        self._closing.set()
        if self._file is not None:
            self._file.closing()
        self._close_writing()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join(BUSY_TIMEOUT_S)  # what it has asked for must not come after the release
        if self._ownership is not None and not self._ownership.is_lost:
            with suppress(DBAPIError, PoolTimeout):  # else the lease runs out
                self._ownership.release()
        self.engine.dispose()
        if self._file is not None:
            self._file.release()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction on the one connection that writes. For one thread at a time.

        On PostgreSQL each transaction begins with a look at who owns the store, who cannot change before its end
        (`services.storage.ownership`). The file of SQLite is looked at before and after: what a transaction has put
        into one that nobody will find is not committed.

        Raises:
            OwnershipLost: another process has taken the store over. There is no way back.
            StoreUnusable: the file has vanished, or is another one.
        """
        if self._writing is None:
            self._writing = self._open_writing()
        try:
            self._verify_or_save_log()
            with self._writing.begin():
                if self._ownership is not None:
                    self._ownership.fence(self._writing)
                yield self._writing
            self._verify()
        except OwnershipLost:
            self._close_writing()
            self.when_lost()
            raise
        except DBAPIError as error:
            if error.connection_invalidated or self._writing.closed or self._writing.invalidated:
                self._close_writing()
            raise

    def _engine_options(self) -> dict[str, Any]:
        if self.is_sqlite:
            return {"connect_args": {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}}
        return {"pool_pre_ping": True, "connect_args": self.connect_options}

    def _configure_sqlite(self, connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        if cursor.execute("PRAGMA page_count").fetchone() == (0,):  # later it would only be written once more
            cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
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
        connection.detach()  # not the pool's any more: closing it ends the session
        if not self.is_sqlite:
            assert self._ownership is not None, "a replica writes nothing"
            try:
                self._ownership.bind(connection)
            except BaseException as error:
                connection.close()
                if isinstance(error, OwnershipLost):
                    self.when_lost()
                raise
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

    def _is_free(self, *, patient: bool) -> bool:
        """Args: patient: a deadline that has passed is not enough: its owner may be about to come back."""
        return may_take(self.owner) and (not patient or self.owner is None or self.owner.is_gone)

    def _keep(self) -> None:
        """Move the deadline again and again. While that fails nobody is pushed: who takes over ends it."""
        assert self._ownership is not None
        delay, is_failing = self.terms.renew_s, False
        while not self._closing.wait(delay):
            try:
                held = self._ownership.renew()
            except (DBAPIError, PoolTimeout) as error:
                if not is_failing:
                    logger.warning("The lease of the store is not renewed at present: %s", _in_one_line(error))
                delay, is_failing = min(1.0, self.terms.renew_s), True
                continue
            if not held:
                self.when_lost()
                return
            delay, is_failing = self.terms.renew_s, False

    def _migrate(self) -> None:
        with self.engine.connect() as connection:
            if self._revision(connection) in (SCHEMA_REVISION, COPYING + SCHEMA_REVISION):
                return
        from services.storage.migrations import upgrade

        with self._alone():
            with self.engine.connect() as connection:
                if self._revision(connection) == SCHEMA_REVISION:
                    return
            logger.info("Bringing the store to schema revision %s", SCHEMA_REVISION)
            upgrade(self.engine)

    def _revision(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        self._check_revision(revision)
        return revision

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else brings a PostgreSQL store up to date, nor owns it by the rules of an older release.

        Raises:
            StoreInUse: somebody owns it, by those or by these.
        """
        if self.is_sqlite:
            yield
            return
        with self.engine.connect() as connection:
            connection.detach()
            try:
                connection.exec_driver_sql(f"SET lock_timeout = '{BUSY_TIMEOUT_S}s'")
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
                owner = look(connection) if inspect(connection).has_table("ownership") else None
                connection.commit()
            except OperationalError as error:
                raise StoreInUse(in_use(self.name)) from error
            if not may_take(owner):
                raise StoreInUse(in_use(self.name))
            yield

    def _check_revision(self, revision: str | None) -> None:
        """Raises: StoreUnusable: no migration of this program leads to it."""
        if revision is not None and revision.startswith(COPYING):
            if self._may_be_unfinished and revision == COPYING + SCHEMA_REVISION:
                return
            raise StoreUnusable(
                f"The store {self.name} holds a copy that was not finished. Make it again with "
                "`python -m services.storage.copy` of the same release, which begins anew; what it was copied from is "
                "as it was."
            )
        if revision is not None and revision not in known_revisions():
            raise StoreUnusable(
                f"The store {self.name} is of a newer release (schema revision {revision!r}; this one knows up to "
                f"{SCHEMA_REVISION!r}). It was left as it is: run that release, or give this one a store of its own."
            )

    @property
    def name(self) -> str:
        """For people; without its password."""
        return self.url.render_as_string(hide_password=True) if self._file is None else str(self._file.path)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split()).rstrip(".")
