"""Both stores: every test that asks for `store` or `database` runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url, text

from services.storage.database import Database
from tests.services.refusing import locked
from tests.services.storage.running_postgres import RunningPostgres


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
    """The database of the session, emptied: making a database takes longer than most tests."""

    _NAME = "store"

    def __init__(self, server: RunningPostgres) -> None:
        self.url = server.url(self._NAME)
        self._administration = server.url("postgres")
        _execute(self.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")

    @contextmanager
    def refusing_writes(self) -> Iterator[None]:
        """The server cuts every connection to the database and lets nobody in."""
        _execute(
            self._administration,
            f"ALTER DATABASE {self._NAME} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._NAME}'",
        )
        yield
        _execute(self._administration, f"ALTER DATABASE {self._NAME} ALLOW_CONNECTIONS true")


def _execute(url: URL, *commands: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for command in commands:
            connection.execute(text(command))
    engine.dispose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[RunningPostgres]:
    """A PostgreSQL server that starts with the first test that needs it."""
    server = RunningPostgres()
    _execute(server.url("postgres"), "CREATE DATABASE store")
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmptyStore:
    if request.param == "sqlite":
        monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.05)
        return SqliteStore(tmp_path)
    server: RunningPostgres = request.getfixturevalue("postgres")
    return PostgresStore(server)


@pytest.fixture
def database(store: EmptyStore) -> Iterator[Database]:
    with closing(Database(store.url)) as opened:
        yield opened
