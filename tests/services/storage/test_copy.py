"""A store that is copied is the same store, and what is no whole copy is used by nobody."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, create_engine, insert, make_url, select, text

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.errors import StoreUnusable
from services.storage import copy
from services.storage.alerts import write_rule
from services.storage.copy import TABLES, main
from services.storage.database import Database
from services.storage.operations import Apply, SetLimits
from services.storage.rows import entry_row, new_task_row
from services.storage.tables import log_entries, tasks
from tests.running_postgres import RunningPostgres
from tests.services.builders import line, task_state, turn
from tests.services.following import TIMEOUT_S
from tests.stores import PostgresStore, execute

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
NUMBER = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT, lambda each: st.lists(each) | st.dictionaries(TEXT, each), max_leaves=5
)
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Each example is two copies."""


def sqlite(path: Path) -> URL:
    return make_url(f"sqlite:///{path}")


@pytest.fixture
def full(tmp_path: Path) -> URL:
    """Tasks with lines, points and buckets, alerts, limits, and a last task that was deleted."""
    url = sqlite(tmp_path / "full.db")
    service = BaseService(Database(url))
    for task_id in ("a", "b", "gone"):
        service.create_log_queue(task_id, task_state(task_id, status=TaskStatus.RUNNING, request={"z": 1, "a": None}))
        for number in range(600):
            service.log_queues[task_id].put(
                line(f"{task_id} 训练 {number}", task_id, metrics={"loss": 1 / (number + 3)})
            )
    for task_id in ("a", "gone"):
        service.log_queues[task_id].put(turn(TaskStatus.FAILED, task_id))
    service._writer.submit(SetLimits({"cpu": 2}))

    def add_rule(connection: Any) -> list[Any]:
        write_rule(connection, {"name": "r", "task_id": "a"})
        return []

    service.apply(Apply(add_rule))
    service._writer.flush(TIMEOUT_S)
    service.delete_task("gone")
    assert service.close()
    return url


@pytest.fixture
def server(postgres: RunningPostgres) -> PostgresStore:
    return PostgresStore(postgres)


def content(url: URL) -> dict[str, list[str]]:
    """Every row of every table."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            table.name: sorted(json.dumps(list(row), default=str) for row in connection.execute(select(table)))
            for table in TABLES
        }
    engine.dispose()
    return found


def run(source: URL, target: URL) -> int:
    return main([url.render_as_string(hide_password=False) for url in (source, target)])


def test_there_and_back_it_is_identical(full: URL, server: PostgresStore, tmp_path: Path) -> None:
    back = sqlite(tmp_path / "back.db")
    before = content(full)
    assert all(before[name] for name in ("tasks", "log_entries", "metric_points", "metric_buckets", "notices"))
    assert run(full, server.url) == 0
    assert content(server.url) == before
    assert run(server.url, back) == 0
    assert content(back) == before == content(full)


def test_what_comes_next_gets_the_numbers_that_it_would_have_got(full: URL, server: PostgresStore) -> None:
    assert run(full, server.url) == 0
    rows = []
    for url in (full, server.url):
        service = BaseService(Database(url))
        start = service.events.end
        service.adopt(service.get_task("b"))
        service.add_log("b", "INFO", "next")
        service._writer.flush(TIMEOUT_S)
        service.create_log_queue("c", task_state("c"))
        rows.append((start, service.events.end, service.get_task("b").last_seq, service.list_tasks()[0][0]))
        assert service.close()
    assert rows[0] == rows[1]


@settings(
    max_examples=4, deadline=None, phases=NO_SHRINKING, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    entries=st.lists(st.tuples(TEXT, st.dictionaries(TEXT, st.none() | NUMBER, min_size=1, max_size=4)), max_size=40),
    request=JSON,
)
def test_any_text_and_any_number_arrives(
    server: PostgresStore, tmp_path: Path, entries: list[tuple[str, dict[str, Any]]], request: Any
) -> None:
    source, back = sqlite(tmp_path / "source.db"), sqlite(tmp_path / "back.db")
    for file in tmp_path.iterdir():
        file.unlink()
    execute(server.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    with closing(Database(source)) as database, database.writing() as connection:
        connection.execute(insert(tasks), new_task_row(task_state("t", request={"value": request})))
        for seq, (message, metrics) in enumerate(entries, start=1):
            entry = line(message, "t", metrics=metrics, seq=seq, stage="training")
            connection.execute(insert(log_entries), entry_row(entry))
    before = content(source)
    assert run(source, server.url) == 0
    assert run(server.url, back) == 0
    assert content(back) == before


class Broken(Exception):
    pass


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    if request.param == "sqlite":
        return sqlite(tmp_path / "target.db")
    server: PostgresStore = request.getfixturevalue("server")
    return server.url


def test_what_a_broken_copy_has_left_is_opened_by_nobody_and_copied_anew(
    full: URL, target: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = copy._batches

    def broken(database: Database, table: Any) -> Iterator[Any]:
        for rows in batches(database, table):
            yield rows
            if table is log_entries:
                raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(copy, "_batches", broken)
        patch.setattr(copy, "BATCH", 100)
        with pytest.raises(Broken):
            run(full, target)
    assert len(content(target)["log_entries"]) == 100
    for may_follow in (False, True):
        with pytest.raises(StoreUnusable, match=r"a copy that was not finished.*services\.storage\.copy"):
            Database(target, may_follow=may_follow)
    assert run(full, target) == 0
    assert content(target) == content(full)
    Database(target).close()


def test_a_target_with_something_in_it_is_left_as_it_is(
    full: URL, target: URL, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Database(target)) as database, database.writing() as connection:
        connection.execute(text("INSERT INTO device_limits VALUES ('cpu', 1)"))
    before = content(target)
    assert run(full, target) == 4
    assert "device_limits" in capsys.readouterr().err
    assert content(target) == before
    Database(target).close()


def test_a_store_that_is_in_use_is_neither_copied_nor_filled(
    full: URL, target: URL, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Database(full)):
        assert run(full, target) == 3
    with closing(Database(target)):
        assert run(full, target) == 3
    assert capsys.readouterr().err.count("Another service process is using the store") == 2
    assert run(full, target) == 0


def test_a_target_that_holds_something_else_is_no_copy(full: URL, tmp_path: Path, capsys: Any) -> None:
    target = sqlite(tmp_path / "target.db")
    Database(target).close()
    with closing(sqlite3.connect(str(target.database))) as connection:
        connection.execute(
            "CREATE TRIGGER t AFTER INSERT ON log_entries WHEN NEW.id = 7 "
            "BEGIN UPDATE log_entries SET message = 'changed' WHERE id = 7; END"
        )
        connection.commit()
    assert run(full, target) == 1
    assert "log_entries" in capsys.readouterr().err
    with pytest.raises(StoreUnusable):
        Database(target)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nonsense", "sqlite:///x.db"], 2, "no URL"),
        (["nonsense://x/y", "sqlite:///x.db"], 2, "no URL"),
        (["sqlite:///nothing.db", "sqlite:///x.db"], 1, "no store nothing.db"),
        (["sqlite:///nothing.db"], 2, "TO_URL"),
    ],
)
def test_what_cannot_be_copied_is_said_in_words_and_a_status(
    tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.storage.copy", *arguments],
        env={"PYTHONPATH": str(Path.cwd())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, list(tmp_path.iterdir())) == (status, [])
    assert says in done.stderr
    assert "Traceback" not in done.stderr
