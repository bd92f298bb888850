"""Opening a store: one owner, the newest schema, and nothing half done."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, MetaData, Table, create_engine, inspect, select, text

from models.schemas import TaskStatus
from services.errors import StoreInUse, StoreUnusable
from services.storage.database import Database
from services.storage.migrations import upgrade
from services.storage.store import Store
from services.storage.tables import SCHEMA_REVISION, UtcDateTime, metadata
from tests.running_postgres import RunningPostgres
from tests.stores import EmptyStore, PostgresStore

REFUSED = r"Another service process is using the store .*STATE_DIR or DATABASE_URL.*--workers"
HOLD = """
import sys
from services.storage.database import Database
database = Database(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""
OPEN = """
import sys
from services.storage.database import Database
Database(sys.argv[1]).close()
print("alembic" in sys.modules)
"""

ROWS_OF_THE_FIRST_RELEASE = (
    """INSERT INTO tasks VALUES (1, 't', 'training', NULL, NULL, 5, '{"model": "resnet18"}', '/runs/t', 'cpu',
    'running', NULL, NULL, 0, 0, 10, '{"train_loss": 0.5}', 'training', '["old"]', 1,
    '2025-10-29 02:00:00.000000', '2025-10-29 02:00:00.000000')""",
    """INSERT INTO log_entries VALUES (1, 't', 1, '2025-10-29 02:00:00.000000', 'INFO', 'Train Loss: 0.5',
    '{"train_loss": 0.5}', NULL, 'training', NULL, NULL)""",
    "INSERT INTO metric_points VALUES ('t', 'train_loss', 1, NULL, NULL, 0.5)",
)


@contextmanager
def other_process(url: str) -> Iterator[subprocess.Popen[str]]:
    """A second service process that has the store open."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.kill()


def open_soon(store: EmptyStore) -> Database:
    """Open a store whose owner is dead; a server may need a moment to notice."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return Database(store.url)
        except StoreInUse:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def full_url(store: EmptyStore) -> str:
    return store.url.render_as_string(hide_password=False)


class TestOwner:
    def test_a_second_one_is_refused_with_a_sentence(self, store: EmptyStore, database: Database) -> None:
        with pytest.raises(StoreInUse, match=REFUSED):
            Database(store.url)

    def test_a_refused_one_leaves_the_first_in_possession(self, store: EmptyStore, database: Database) -> None:
        for _ in range(2):
            with pytest.raises(StoreInUse):
                Database(store.url)
        with database.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM tasks")) == 0

    def test_the_next_one_is_welcome_once_the_first_has_closed(self, store: EmptyStore, database: Database) -> None:
        database.close()
        Database(store.url).close()

    def test_closing_twice_does_no_harm(self, database: Database) -> None:
        database.close()
        database.close()

    def test_another_process_owns_the_store_until_it_is_killed(self, store: EmptyStore) -> None:
        with other_process(full_url(store)) as first:
            with pytest.raises(StoreInUse, match=REFUSED):
                Database(store.url)
            first.kill()
            first.wait()
            open_soon(store).close()

    def test_the_sentence_shows_no_password(self, postgres: RunningPostgres) -> None:
        url = PostgresStore(postgres).url.set(password="secret")
        with closing(Database(url)), pytest.raises(StoreInUse, match=str(url.database)) as refusal:
            Database(url)
        assert "secret" not in str(refusal.value)


class TestSchema:
    def test_a_new_store_has_exactly_the_tables_of_this_program(self, database: Database) -> None:
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_server_default": True})
            assert compare_metadata(context, metadata) == []
            assert context.get_current_revision() == SCHEMA_REVISION
            assert set(inspect(connection).get_table_names()) == {*metadata.tables, "alembic_version"}

    def test_a_store_of_the_first_release_is_brought_up_to_date_with_what_is_in_it(self, store: EmptyStore) -> None:
        engine = create_engine(store.url)
        upgrade(engine, "0001")
        with engine.begin() as connection:
            for statement in ROWS_OF_THE_FIRST_RELEASE:
                connection.exec_driver_sql(statement)
        engine.dispose()
        with closing(Database(store.url)) as database:
            reader = Store(database)
            state = reader.get_task("t")
            assert state is not None
            assert (state.status, state.percents, state.warnings) == (TaskStatus.RUNNING, frozenset(), ("old",))
            assert reader.read_progress("t") == (0, None)
            (entry,) = reader.read_entries("t")
            assert (entry.message, entry.metrics, entry.parsed) == ("Train Loss: 0.5", {"train_loss": 0.5}, True)
            with database.engine.connect() as connection:
                assert compare_metadata(MigrationContext.configure(connection), metadata) == []

    def test_what_is_in_a_store_is_there_when_it_is_opened_again(self, store: EmptyStore, database: Database) -> None:
        with database.engine.begin() as connection:
            connection.execute(text("CREATE TABLE mark (value INTEGER)"))
            connection.execute(text("INSERT INTO mark VALUES (7)"))
        database.close()
        with closing(Database(store.url)) as again, again.engine.connect() as connection:
            assert connection.scalar(text("SELECT value FROM mark")) == 7

    def test_a_store_of_this_revision_is_opened_without_alembic(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        opens_new, opens_old = (
            subprocess.run([sys.executable, "-c", OPEN, url], capture_output=True, text=True, check=True)
            for _ in range(2)
        )
        assert opens_new.stdout == "True\n"
        assert opens_old.stdout == "False\n"

    def test_a_migration_that_is_cut_short_leaves_nothing_behind(
        self, store: EmptyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def power_cut(*_args: object, **_keywords: object) -> None:
            raise InterruptedError("power cut")

        with monkeypatch.context() as patch:
            patch.setattr(op, "create_index", power_cut)
            with pytest.raises(InterruptedError):
                Database(store.url)
        engine = create_engine(store.url)
        assert inspect(engine).get_table_names() == []
        engine.dispose()
        Database(store.url).close()

    def test_a_file_that_is_no_database_is_refused_and_let_go(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        path.write_text("I am a text.\n" * 100)
        with pytest.raises(StoreUnusable, match="not a database"):
            Database(f"sqlite:///{path}")
        path.unlink()
        Database(f"sqlite:///{path}").close()

    def test_folders_above_an_sqlite_file_are_made(self, tmp_path: Path) -> None:
        Database(f"sqlite:///{tmp_path}/a/b/store.db").close()
        assert (tmp_path / "a/b/store.db").is_file()


class TestSqlite:
    @pytest.mark.parametrize(("synchronous", "number"), [("OFF", 0), ("NORMAL", 1), ("FULL", 2), ("EXTRA", 3)])
    def test_every_connection_is_set_up_alike(self, tmp_path: Path, synchronous: str, number: int) -> None:
        database = Database(f"sqlite:///{tmp_path}/store.db", synchronous=synchronous)  # type: ignore[arg-type]
        with closing(database), database.engine.connect() as one, database.engine.connect() as two:
            for connection in (one, two):
                assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
                assert connection.scalar(text("PRAGMA foreign_keys")) == 1
                assert connection.scalar(text("PRAGMA synchronous")) == number
                assert connection.scalar(text("PRAGMA busy_timeout")) == 10_000


class TestTimes:
    @pytest.mark.parametrize(
        "moment",
        [
            datetime(2025, 10, 29, 2, 16, 45, 123456, tzinfo=UTC),
            datetime(2025, 10, 29, 10, 16, 45, tzinfo=timezone(timedelta(hours=8))),
            datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(-timedelta(hours=3, minutes=30))),
        ],
    )
    def test_a_time_comes_back_as_the_same_moment_in_utc(self, database: Database, moment: datetime) -> None:
        times = Table("times", MetaData(), Column("moment", UtcDateTime), Column("none", UtcDateTime))
        with database.engine.begin() as connection:
            times.create(connection)
            connection.execute(times.insert(), {"moment": moment, "none": None})
        with database.engine.connect() as connection:
            kept, nothing = connection.execute(select(times)).one()
        assert kept == moment
        assert kept.utcoffset() == timedelta(0)
        assert nothing is None
