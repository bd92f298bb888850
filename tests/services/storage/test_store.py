"""What is committed can be read again as it was, in pages that hold still while tasks are added."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.errors import StorageUnavailable
from services.log_entry import LogEntry, StatusChange
from services.storage.database import Database
from services.storage.rows import entry_row, new_task_row, point_rows
from services.storage.store import Store
from services.storage.tables import log_entries, metric_points, tasks
from services.task_state import TaskState
from tests.running_postgres import RunningPostgres
from tests.services.builders import MOMENT, line, task_state
from tests.services.following import follow
from tests.stores import PostgresStore

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.none()
METRICS = st.dictionaries(TEXT.filter(lambda name: len(name) <= 128), NUMBERS, max_size=4)
COUNTS = st.none() | st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(0, 10**15).map(lambda microseconds: MOMENT + timedelta(microseconds=microseconds))
STATUSES = st.sampled_from(TaskStatus)
ANY_TEXT = st.text(st.characters(), max_size=20)
COORDINATES = ("epoch", "total_epochs", "total_steps")
JSON = st.recursive(st.none() | st.booleans() | TEXT | st.integers(-(2**53), 2**53), st.lists, max_leaves=4)
on_any_store = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
_names = itertools.count()


@pytest.fixture
def reader(database: Database) -> Store:
    return Store(database)


def write(database: Database, states: Iterable[TaskState] = (), entries: Sequence[LogEntry] = ()) -> None:
    with database.engine.begin() as connection:
        for state in states:
            connection.execute(tasks.insert(), new_task_row(state))
        for entry in entries:
            connection.execute(log_entries.insert(), entry_row(entry))
            for point in point_rows(entry):
                connection.execute(metric_points.insert(), point)


@st.composite
def task_states(draw: st.DrawFn) -> TaskState:
    return task_state(
        f"task-{next(_names)}",
        request=draw(st.dictionaries(TEXT, JSON, max_size=3)),
        output_dir=draw(TEXT),
        device=draw(st.sampled_from(["cpu", "cuda", "cuda:999"])),
        created_at=draw(TIMES),
        updated_at=draw(TIMES),
        status=draw(STATUSES),
        reason=draw(st.none() | st.just("user_stop")),
        error=draw(st.none() | TEXT),
        progress=draw(st.integers(0, 100)),
        current_epoch=draw(st.none() | st.integers(0, 2**53) | st.floats(0, 1e9)),
        total_epochs=draw(COUNTS),
        latest_metrics=draw(METRICS),
        stage=draw(st.sampled_from(["training", "validation"])),
        name=draw(st.none() | TEXT),
        description=draw(st.none() | TEXT),
        priority=draw(st.integers(1, 10)),
        warnings=tuple(draw(st.lists(TEXT, max_size=2))),
        last_seq=draw(st.integers(0, 2**63 - 1)),
    )


class TestRoundTrip:
    @on_any_store
    @given(state=task_states())
    def test_a_task_is_read_as_it_was_written(self, database: Database, reader: Store, state: TaskState) -> None:
        write(database, [state])
        assert reader.get_task(state.task_id) == state

    @on_any_store
    @given(message=TEXT, metrics=METRICS, step=COUNTS, moment=TIMES, status=st.none() | STATUSES)
    @example(message="", metrics={}, step=0, moment=MOMENT, status=None)
    @example(message="损失", metrics={"train_loss": None}, step=None, moment=MOMENT, status=TaskStatus.FAILED)
    def test_a_line_is_read_as_it_was_written(
        self,
        database: Database,
        reader: Store,
        message: str,
        metrics: dict[str, Any],
        step: int | None,
        moment: Any,
        status: TaskStatus | None,
    ) -> None:
        task_id = f"line-{next(_names)}"
        entry = line(
            message,
            task_id,
            seq=1,
            metrics=metrics or None,
            step=step,
            stage="training",
            timestamp=moment,
            change=None if status is None else StatusChange(status, "user_stop"),
        )
        write(database, [task_state(task_id)], [entry])
        assert reader.read_entries(task_id) == [entry]

    def test_a_whole_epoch_is_read_as_a_whole_number(self, database: Database, reader: Store) -> None:
        write(database, [task_state("whole", current_epoch=3), task_state("half", current_epoch=3.5)])
        whole, half = reader.get_task("whole"), reader.get_task("half")
        assert whole is not None
        assert half is not None
        assert (repr(whole.current_epoch), repr(half.current_epoch)) == ("3", "3.5")

    def test_a_task_that_nobody_has_made_is_none(self, reader: Store) -> None:
        assert reader.get_task("nobody") is None
        assert reader.read_entries("nobody") == []


class TestWhatAddLogTakes:
    @pytest.fixture
    def service(self, database: Database) -> Iterator[BaseService]:
        made = BaseService(database)
        made.create_log_queue("t", task_state("t", status=TaskStatus.RUNNING))
        yield made
        made.close()

    @on_any_store
    @given(
        level=ANY_TEXT,
        message=ANY_TEXT,
        metrics=st.dictionaries(ANY_TEXT | st.sampled_from(COORDINATES), st.integers() | st.floats(), max_size=4),
        step=st.integers(),
        stage=st.none() | ANY_TEXT,
    )
    @example(level="i" * 99, message="\x00\ud800", metrics={"n" * 999: math.nan}, step=2**64, stage="s" * 99)
    @example(level="ß" * 16, message="", metrics={"epoch": 1e308, "total_epochs": 1}, step=-1, stage="\x00")
    @example(level="", message="", metrics={"epoch": -999_999_999_999_999_999}, step=0, stage=None)
    @example(level="", message="", metrics={"total_epochs": 1e300, "total_steps": 2.5}, step=0, stage="")
    def test_every_line_is_stored_and_shown_alike(
        self,
        service: BaseService,
        level: str,
        message: str,
        metrics: dict[str, int | float],
        step: int,
        stage: str | None,
    ) -> None:
        known = service.get_task("t").last_seq
        service.add_log("t", level, message, metrics, step, stage)
        stored = service.get_logs("t")
        assert len(stored) == known + 1
        shown = asyncio.run(follow(service, "t", known, until=lambda frame: True))
        assert [frame.entry for frame in shown] == stored[-1:]
        state = service.get_task("t")
        assert state == service.store.get_task("t")
        state.to_response().model_dump_json()


class TestUnreadableStore:
    def test_a_file_that_was_ruined_is_a_503_and_no_crash(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path}/store.db")
        reader = Store(database)
        database.engine.dispose()
        for file in tmp_path.glob("store.db*"):
            file.write_bytes(b"ruined" * 1000)
        with pytest.raises(StorageUnavailable, match="cannot be read") as refused:
            reader.get_task("t")
        assert refused.value.status_code == 503
        database.close()

    def test_so_is_a_server_that_lets_nobody_in_until_it_does_again(self, postgres: RunningPostgres) -> None:
        store = PostgresStore(postgres)
        with closing(Database(store.url)) as database:
            reader = Store(database)
            with store.refusing_writes():
                for read in (reader.count_tasks, reader.active_tasks, lambda: reader.read_entries("t")):
                    with pytest.raises(StorageUnavailable, match="cannot be read"):
                        read()
            assert reader.count_tasks() == 0


def test_the_number_of_a_deleted_task_is_not_used_again(database: Database, reader: Store) -> None:
    """A client may hold it as the cursor of its next page."""
    write(database, [task_state("first"), task_state("deleted")], [line(seq=1, task_id="deleted", stage="training")])
    ((cursor, _),) = reader.list_tasks(limit=1)
    with database.engine.begin() as connection:
        connection.execute(tasks.delete().where(tasks.c.task_id == "deleted"))
    write(database, [task_state("next")])
    ((number, newest),) = reader.list_tasks(limit=1)
    assert newest.task_id == "next"
    assert number > cursor


class TestLists:
    STATUSES = ("completed", "failed", "queued", "running", "completed", "cancelled", "pending", "stopping")

    @pytest.fixture(autouse=True)
    def _tasks(self, database: Database) -> None:
        write(
            database,
            [task_state(f"t{number}", status=TaskStatus(status)) for number, status in enumerate(self.STATUSES)],
        )

    @staticmethod
    def ids(found: Iterable[tuple[int, TaskState]]) -> list[str]:
        return [state.task_id for _, state in found]

    def test_the_newest_task_comes_first(self, reader: Store) -> None:
        assert self.ids(reader.list_tasks()) == ["t7", "t6", "t5", "t4", "t3", "t2", "t1", "t0"]

    def test_a_list_can_be_narrowed_to_statuses(self, reader: Store) -> None:
        def with_status(*wanted: str) -> list[str]:
            return self.ids(reader.list_tasks(status=[TaskStatus(status) for status in wanted]))

        assert with_status("completed") == ["t4", "t0"]
        assert with_status("queued", "pending") == ["t6", "t2"]
        assert with_status("failed") == ["t1"]
        assert len(with_status()) == 8

    def test_pages_hold_every_task_once_while_others_are_added(self, database: Database, reader: Store) -> None:
        for limit in (1, 3, 8, 100):
            at_the_start = self.ids(reader.list_tasks())
            seen: list[str] = []
            before = None
            while page := reader.list_tasks(before=before, limit=limit):
                seen += self.ids(page)
                before = page[-1][0]
                write(database, [task_state(f"later-{next(_names)}")])
            assert seen == at_the_start

    def test_pages_of_a_narrowed_list_hold_still_too(self, database: Database, reader: Store) -> None:
        (first,) = reader.list_tasks(status=[TaskStatus.COMPLETED], limit=1)
        write(database, [task_state("later", status=TaskStatus.COMPLETED)])
        assert self.ids(reader.list_tasks(status=[TaskStatus.COMPLETED], before=first[0], limit=5)) == ["t0"]

    def test_tasks_that_have_not_ended_come_oldest_first(self, reader: Store) -> None:
        assert [state.task_id for state in reader.active_tasks()] == ["t2", "t3", "t6", "t7"]

    def test_tasks_are_counted(self, reader: Store) -> None:
        assert reader.count_tasks() == 8


class TestLines:
    @pytest.fixture(autouse=True)
    def _lines(self, database: Database) -> None:
        levels = ["INFO", "WARNING", "info", "ERROR", "INFO"]
        stages = ["training", "validation", "validation", "training", "epoch_end"]
        entries = [
            line(f"line {seq}", seq=seq, level=level, stage=stage)
            for seq, level, stage in zip(range(1, 6), levels, stages, strict=True)
        ]
        write(
            database,
            [task_state("t"), task_state("other")],
            [*entries, line("not mine", "other", seq=1, stage="training")],
        )

    def test_lines_come_in_order_and_only_those_that_were_asked_for(self, reader: Store) -> None:
        def read(**options: Any) -> list[int]:
            return [entry.seq for entry in reader.read_entries("t", **options)]

        assert read() == [1, 2, 3, 4, 5]
        assert read(after=3) == [4, 5]
        assert read(after=5) == read(after=2**63 - 1) == []
        assert read(limit=2) == [1, 2]
        assert read(after=1, limit=2) == [2, 3]
        assert read(level="INFO") == [1, 3, 5]
        assert read(level="warning") == [2]
        assert read(level="DEBUG") == []
        assert read(stage="validation") == [2, 3]
        assert read(stage="validation", level="INFO") == [3]
        assert read(level="INFO", after=1, limit=1) == [3]


def test_the_few_lines_that_are_no_info_are_found_by_an_index(tmp_path: Path) -> None:
    asked: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        plan = connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)
        asked.append(" ".join(str(step) for step in plan))

    with closing(Database(f"sqlite:///{tmp_path}/store.db")) as database:
        reader = Store(database)
        event.listen(database.engine, "before_cursor_execute", explain)
        reader.read_entries("t", level="error")
        reader.read_entries("t", level="error", before=9, limit=5)
        reader.read_entries("t", level="info")
    assert ["ix_log_entries_rare" in plan for plan in asked] == [True, True, False]
