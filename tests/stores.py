"""Stores for tests: an SQLite file, and a database of a real PostgreSQL server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

from tests.running_postgres import RunningPostgres
from tests.services.refusing import locked


class EmptyStore(ABC):
    """A store of a test's own, with nothing in it yet."""

    url: URL

    @abstractmethod
    @contextmanager
    def refusing_writes(self) -> Iterator[None]:
        """For a while the store takes no writes, for a reason that is real."""
        yield


class SqliteStore(EmptyStore):
    def __init__(self, folder: Path) -> None:
        self.url = make_url(f"sqlite:///{folder / 'store.db'}")

    @contextmanager
    def refusing_writes(self) -> Iterator[None]:
        assert self.url.database
        with locked(Path(self.url.database)):
            yield


class PostgresStore(EmptyStore):
    """A database of the session, emptied: making a database takes longer than most tests."""

    def __init__(self, server: RunningPostgres, name: str = "store") -> None:
        self._name = name
        self.url = server.url(name)
        self._administration = server.url("postgres")
        execute(self.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")

    @contextmanager
    def refusing_writes(self) -> Iterator[None]:
        """The server cuts every connection to the database and lets nobody in."""
        execute(
            self._administration,
            f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'",
        )
        yield
        execute(self._administration, f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")


def execute(url: URL, *commands: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for command in commands:
            connection.execute(text(command))
    engine.dispose()
