"""The one thread that writes: group commit, publish after commit, and nothing lost while the store refuses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import Connection, event, func, select, update
from sqlalchemy.exc import DBAPIError

from models.schemas import LogReading, TaskStatus
from services.errors import LinesRemoved, StorageUnavailable, StoreInUse, TaskConflict, TaskNotFound
from services.log_entry import LogEntry
from services.parsing import Memory
from services.rereading import Rereading
from services.storage.database import Database
from services.storage.operations import (
    Apply,
    Committed,
    CreateTask,
    DeleteTask,
    Notice,
    Operation,
    Reparse,
    SetLimits,
)
from services.storage.store import Store
from services.storage.tables import log_entries, metadata, metric_points, notices, tasks
from services.storage.writer import MAX_BATCH, MAX_BATCH_POINTS, UNSTORABLE, Writer
from services.task_state import TaskState
from tests.running_postgres import RunningPostgres
from tests.services.builders import line, task_state, turn
from tests.stores import EmptyStore, PostgresStore, execute

TIMEOUT_S = 30
LOGGER = "services.storage.writer"


def of_many(count: int) -> dict[str, float]:
    """Values of so many metrics."""
    return {f"metric{number}": 1.0 for number in range(count)}


class Desk:
    """What a service is to its writer: it keeps the states, and shows what is committed.

    `held()` makes the writer wait inside `publish`, so that what is submitted meanwhile gathers.
    """

    def __init__(self, database: Database, **limits: int) -> None:
        self.states: dict[str, TaskState] = {}
        self.shown: list[LogEntry] = []
        self.on_publish: Callable[[Sequence[Committed]], None] = lambda committed: None
        self.writer = Writer(
            database, states=self.states.__getitem__, publish=self._publish, announce=lambda notice: None, **limits
        )
        self._open = threading.Event()
        self._open.set()
        self._waiting = threading.Event()

    def _publish(self, committed: Sequence[Committed]) -> None:
        for task in committed:
            self.states[task.state.task_id] = task.state
            self.shown += task.entries
        self.on_publish(committed)
        self._waiting.set()
        self._open.wait(TIMEOUT_S)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._open.clear()
        self._waiting.clear()
        self.writer.submit(line("hold"))
        assert self._waiting.wait(TIMEOUT_S)
        try:
            yield
        finally:
            self._open.set()

    def create(self, task_id: str = "t") -> None:
        self.submit(CreateTask(task_state(task_id, status=TaskStatus.RUNNING))).result(TIMEOUT_S)

    def submit(self, operation: Operation) -> Future[None]:
        done = self.writer.submit(operation, want_future=True)
        assert done is not None
        return done

    @property
    def messages(self) -> list[str]:
        return [entry.message for entry in self.shown]


class Heard(logging.Handler):
    """Turns a line of the writer's own log into something to wait for."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


@contextmanager
def complaint() -> Iterator[threading.Event]:
    heard = Heard(logging.ERROR)
    logging.getLogger(LOGGER).addHandler(heard)
    yield heard.event
    logging.getLogger(LOGGER).removeHandler(heard)


@pytest.fixture
def desk(database: Database) -> Iterator[Desk]:
    made = Desk(database)
    made.writer.start()
    made.create()
    yield made
    assert made.writer.close(TIMEOUT_S)


@pytest.fixture
def reader(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def commits(database: Database) -> list[str]:
    """Grows by one with each commit."""
    counted: list[str] = []
    event.listen(database.engine, "commit", lambda connection: counted.append("commit"))
    return counted


def numbered(count: int, task_id: str = "t") -> list[LogEntry]:
    return [line(f"line {number}", task_id, metrics={"train_loss": number}) for number in range(count)]


class TestOrder:
    def test_lines_are_stored_and_shown_in_the_order_they_came(self, desk: Desk, reader: Store) -> None:
        for entry in numbered(50):
            desk.writer.submit(entry)
        desk.writer.flush(TIMEOUT_S)
        assert [entry.seq for entry in desk.shown] == list(range(1, 51))
        assert desk.messages == [f"line {number}" for number in range(50)]
        assert reader.read_entries("t") == desk.shown

    def test_tasks_are_numbered_apart(self, desk: Desk, reader: Store) -> None:
        desk.create("other")
        with desk.held():
            for number in range(3):
                desk.writer.submit(line(f"a {number}", "t"))
                desk.writer.submit(line(f"b {number}", "other"))
        desk.writer.flush(TIMEOUT_S)
        assert [(entry.seq, entry.message) for entry in reader.read_entries("other")] == [
            (1, "b 0"),
            (2, "b 1"),
            (3, "b 2"),
        ]
        assert [entry.seq for entry in reader.read_entries("t")] == [1, 2, 3, 4]

    def test_the_task_row_says_what_its_lines_say(self, desk: Desk, reader: Store) -> None:
        desk.writer.submit(line(metrics={"epoch": 3, "total_epochs": 10, "val_acc": 61.5}, stage="validation"))
        desk.writer.submit(turn(TaskStatus.STOPPING, reason="user_stop"))
        desk.writer.flush(TIMEOUT_S)
        stored = reader.get_task("t")
        assert stored == desk.states["t"]
        assert (stored.status, stored.reason, stored.progress) == (TaskStatus.STOPPING, "user_stop", 30)

    def test_a_task_and_its_first_lines_can_share_a_transaction(
        self, desk: Desk, reader: Store, commits: list[str]
    ) -> None:
        with desk.held():
            commits.clear()
            desk.writer.submit(CreateTask(task_state("new")))
            desk.writer.submit(line("first", "new"))
        desk.writer.flush(TIMEOUT_S)
        assert commits == ["commit"]
        assert [entry.message for entry in reader.read_entries("new")] == ["first"]
        assert reader.get_task("new") == desk.states["new"]


class TestGroupCommit:
    def test_lines_that_gathered_are_one_transaction(self, desk: Desk, commits: list[str]) -> None:
        with desk.held():
            commits.clear()
            for entry in numbered(500):
                desk.writer.submit(entry)
        desk.writer.flush(TIMEOUT_S)
        assert commits == ["commit"]
        assert len(desk.shown) == 501

    def test_lines_that_come_one_by_one_are_not_kept_waiting(self, desk: Desk, commits: list[str]) -> None:
        commits.clear()
        for entry in numbered(5):
            desk.submit(entry).result(TIMEOUT_S)
        assert commits == ["commit"] * 5

    def test_a_flush_of_nothing_writes_nothing(self, desk: Desk, commits: list[str]) -> None:
        commits.clear()
        desk.writer.flush(TIMEOUT_S)
        assert commits == []

    def test_a_line_is_in_the_store_before_anybody_sees_it(self, desk: Desk, reader: Store) -> None:
        missing: list[LogEntry] = []

        def compare(committed: Sequence[Committed]) -> None:
            for task in committed:
                stored = reader.read_entries(task.state.task_id)
                missing.extend(entry for entry in task.entries if entry not in stored)
                if reader.get_task(task.state.task_id) != task.state:
                    missing.append(line("the task's row"))

        desk.on_publish = compare
        for entry in numbered(20):
            desk.writer.submit(entry)
        desk.writer.flush(TIMEOUT_S)
        assert len(desk.shown) == 20
        assert missing == []

    def test_whoever_waits_for_a_line_is_told_after_it_is_shown(self, desk: Desk) -> None:
        told_before: list[bool] = []
        with desk.held():
            waited_for = [desk.submit(entry) for entry in numbered(5)]
            desk.on_publish = lambda committed: told_before.extend(done.done() for done in waited_for)
        for done in waited_for:
            done.result(TIMEOUT_S)
        assert told_before == [False] * 5


class TestBadRows:
    def test_a_line_that_no_store_can_hold_is_replaced_by_one_that_says_so(
        self, desk: Desk, reader: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        with desk.held():
            told = [desk.submit(entry) for entry in (line("before"), line("bad", step=2**70), line("after"))]
        for done in told:
            done.result(TIMEOUT_S)
        stored = reader.read_entries("t")
        assert [(entry.seq, entry.level, entry.message) for entry in stored] == [
            (1, "INFO", "hold"),
            (2, "INFO", "before"),
            (3, "ERROR", UNSTORABLE),
            (4, "INFO", "after"),
        ]
        assert desk.shown == stored
        assert "bad" in caplog.text

    def test_a_last_line_that_no_store_can_hold_ends_its_task_all_the_same(self, desk: Desk, reader: Store) -> None:
        desk.submit(replace(turn(TaskStatus.FAILED, reason="diverged"), step=2**70)).result(TIMEOUT_S)
        (entry,) = reader.read_entries("t")
        assert (entry.message, entry.is_last) == (UNSTORABLE, True)
        state = reader.get_task("t")
        assert state is not None
        assert (state.status, state.reason) == (TaskStatus.FAILED, "diverged")

    def test_what_such_a_line_changes_about_its_task_is_changed_all_the_same(self, desk: Desk, reader: Store) -> None:
        desk.submit(replace(line("bad", step=2**70), attempt=2, priority=1)).result(TIMEOUT_S)
        state = reader.get_task("t")
        assert state is not None
        assert (state.attempt, state.priority) == (2, 1)

    def test_a_line_of_a_task_that_does_not_exist_fails_alone(
        self, desk: Desk, reader: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        with desk.held():
            lost = desk.submit(line("lost", "nobody"))
            kept = desk.submit(line("kept"))
        kept.result(TIMEOUT_S)
        assert isinstance(lost.exception(TIMEOUT_S), KeyError)
        assert "lost" in caplog.text

    def test_an_id_that_was_used_before_is_refused_in_words(self, desk: Desk, reader: Store) -> None:
        again = desk.submit(CreateTask(task_state("t", name="another")))
        with pytest.raises(TaskConflict, match="There is a task 't' already"):
            again.result(TIMEOUT_S)
        stored = reader.get_task("t")
        assert stored is not None
        assert stored.name is None


class TestMistakes:
    def test_the_writer_survives_a_mistake_in_showing_lines(
        self, desk: Desk, reader: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(committed: Sequence[Committed]) -> None:
            raise ZeroDivisionError

        desk.on_publish = broken
        with pytest.raises(ZeroDivisionError):
            desk.submit(line("first")).result(TIMEOUT_S)
        assert "The writer has made a mistake" in caplog.text
        desk.on_publish = lambda committed: None
        desk.submit(line("second")).result(TIMEOUT_S)
        assert [entry.message for entry in reader.read_entries("t")] == ["first", "second"]

    def test_a_mistake_in_showing_one_task_hides_no_other(self, desk: Desk) -> None:
        shown: list[str] = []

        def broken(committed: Sequence[Committed]) -> None:
            for task in committed:
                if task.state.task_id == "t":
                    raise ZeroDivisionError
                shown.append(task.state.task_id)

        for task_id in ("before", "after"):
            desk.create(task_id)
        with desk.held():
            desk.on_publish = broken
            together = [desk.submit(line("together", task_id)) for task_id in ("before", "t", "after")]
        for done in together:
            assert isinstance(done.exception(TIMEOUT_S), ZeroDivisionError), "they are one transaction"
        assert sorted(shown) == ["after", "before"]


class TestDeletion:
    def test_a_deleted_task_leaves_no_row_in_any_table(self, desk: Desk, database: Database) -> None:
        desk.create("kept")
        for task_id in ("t", "kept"):
            desk.writer.submit(line("with metrics", task_id, metrics={"train_loss": 1, "val_loss": 2}))
        desk.submit(DeleteTask("t")).result(TIMEOUT_S)
        with database.engine.connect() as connection:
            for table in (table for table in metadata.sorted_tables if "task_id" in table.c):
                owners = connection.scalars(select(table.c.task_id).distinct()).all()
                if table is notices:
                    assert owners == ["t"], "that it is gone is told to whoever comes later"
                else:
                    assert set(owners) <= {"kept"}, table.name
            assert connection.scalar(select(func.count()).select_from(metric_points)) == 2

    def test_an_id_is_free_again_after_its_task_was_deleted(self, desk: Desk, reader: Store) -> None:
        desk.submit(line("old")).result(TIMEOUT_S)
        desk.submit(DeleteTask("t")).result(TIMEOUT_S)
        desk.create("t")
        desk.submit(line("new")).result(TIMEOUT_S)
        assert [(entry.seq, entry.message) for entry in reader.read_entries("t")] == [(1, "new")]


class TestRefusingStore:
    def test_lines_wait_and_nothing_is_lost(self, store: EmptyStore, desk: Desk, reader: Store) -> None:
        with complaint() as complained:
            with store.refusing_writes():
                for entry in numbered(30):
                    desk.writer.submit(entry)
                assert complained.wait(TIMEOUT_S)
                assert desk.writer.degraded
                assert desk.shown == []
            desk.writer.flush(TIMEOUT_S)
        assert desk.writer.degraded is None
        assert [(entry.seq, entry.message) for entry in reader.read_entries("t")] == [
            (number + 1, f"line {number}") for number in range(30)
        ]
        assert desk.shown == reader.read_entries("t")

    def test_a_writer_that_is_waited_for_says_so_in_time(self, store: EmptyStore, desk: Desk) -> None:
        with store.refusing_writes():
            desk.writer.submit(line())
            with pytest.raises(TimeoutError):
                desk.writer.flush(0.01)

    def test_a_commit_whose_answer_was_lost_is_not_made_twice(
        self, database: Database, desk: Desk, reader: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dialect = database.engine.dialect
        commit, left = dialect.do_commit, ["once"]

        def commit_and_lose_the_answer(connection: object) -> None:
            commit(connection)  # type: ignore[arg-type]
            if left:
                left.pop()
                raise dialect.loaded_dbapi.OperationalError("the connection was lost")

        with desk.held():
            monkeypatch.setattr(dialect, "do_commit", commit_and_lose_the_answer)
            desk.writer.submit(CreateTask(task_state("new")))
            for entry in (*numbered(5), *numbered(5, "new")):
                desk.writer.submit(entry)
        desk.writer.flush(TIMEOUT_S)
        desk.submit(line("later")).result(TIMEOUT_S)
        desk.submit(line("later", "new")).result(TIMEOUT_S)
        assert left == []
        expected = [*(f"line {number}" for number in range(5)), "later"]
        assert [entry.message for entry in reader.read_entries("t")] == ["hold", *expected]
        assert [entry.message for entry in reader.read_entries("new")] == expected
        assert sorted(desk.messages) == sorted(["hold", *expected, *expected])

    def test_closing_gives_up_in_time_and_the_lines_are_kept_trying(
        self, store: EmptyStore, database: Database, reader: Store
    ) -> None:
        desk = Desk(database)
        desk.writer.start()
        desk.create()
        with store.refusing_writes():
            desk.writer.submit(line("late"))
            assert not desk.writer.close(0.05)
        assert desk.writer.close(TIMEOUT_S)
        assert [entry.message for entry in reader.read_entries("t")] == ["late"]


def test_nothing_is_written_to_a_store_that_another_has_taken_over(postgres: RunningPostgres) -> None:
    """The owner was silent for too long, and somebody else was there first."""
    store, lost = PostgresStore(postgres), threading.Event()
    with closing(Database(store.url)) as database:
        desk, reader = Desk(database), Store(database)
        database.when_lost = lost.set
        desk.writer.start()
        desk.create()
        execute(store.url, "UPDATE ownership SET expires_at = clock_timestamp()")
        with closing(Database(store.url)) as other:
            done = desk.writer.submit(line("mine"), want_future=True)
            assert done is not None
            with pytest.raises(StoreInUse):
                done.result(TIMEOUT_S)
            assert lost.is_set()
            assert reader.read_entries("t") == desk.shown == []
            other_desk = Desk(other)
            other_desk.writer.start()
            other_desk.create("u")
            assert other_desk.writer.close(TIMEOUT_S)
        with pytest.raises(StoreInUse):  # the other one is gone, which changes nothing
            desk.writer.submit(line("mine"), want_future=True).result(TIMEOUT_S)  # type: ignore[union-attr]
        assert reader.read_entries("t") == []
        assert desk.writer.close(TIMEOUT_S)


class TestFullQueue:
    @pytest.fixture
    def small(self, database: Database) -> Iterator[Desk]:
        """Three lines may wait in it."""
        made = Desk(database, limit=3)
        made.writer.start()
        made.create()
        yield made
        assert made.writer.close(TIMEOUT_S)

    def test_whoever_brings_a_line_waits_for_space(self, small: Desk, reader: Store) -> None:
        with small.held():
            for entry in numbered(3):
                small.writer.submit(entry)
            bringer = threading.Thread(target=small.writer.submit, args=(line("fourth"),))
            bringer.start()
            bringer.join(0.1)
            assert bringer.is_alive(), "the fourth line did not wait"
        bringer.join(TIMEOUT_S)
        small.writer.flush(TIMEOUT_S)
        assert [entry.message for entry in reader.read_entries("t")] == ["hold", "line 0", "line 1", "line 2", "fourth"]

    def test_a_line_that_must_not_wait_is_taken_all_the_same(self, small: Desk, reader: Store) -> None:
        with small.held():
            for entry in numbered(10):
                small.writer.submit(entry, wait_for_space=False)
        small.writer.flush(TIMEOUT_S)
        assert len(reader.read_entries("t")) == 11

    def test_many_bringers_get_every_line_in(self, small: Desk, reader: Store) -> None:
        def bring(name: str) -> None:
            for number in range(20):
                small.writer.submit(line(f"{name} {number}"))

        bringers = [threading.Thread(target=bring, args=(name,)) for name in "abcd"]
        for bringer in bringers:
            bringer.start()
        for bringer in bringers:
            bringer.join(TIMEOUT_S)
        small.writer.flush(TIMEOUT_S)
        stored = [entry.message for entry in reader.read_entries("t")]
        for name in "abcd":
            assert [message for message in stored if message[0] == name] == [f"{name} {number}" for number in range(20)]

    def test_a_task_that_is_being_stopped_may_bring_as_much_again(self, small: Desk, reader: Store) -> None:
        """Else whoever waits with its next line would hear of the stop when the store takes lines, not before."""
        with small.held():
            for entry in numbered(3):
                small.writer.submit(entry)
            bringer = threading.Thread(target=small.writer.submit, args=(line("fourth"),))
            bringer.start()
            small.writer.submit(turn(TaskStatus.STOPPING), wait_for_space=False)
            bringer.join(0.1)
            assert bringer.is_alive(), "it had room before it was told to stop"
            small.writer.make_room("t")
            bringer.join(TIMEOUT_S)
            assert not bringer.is_alive(), "the fourth line still waited"
            small.writer.submit(line("sixth"))
            too_many = threading.Thread(target=small.writer.submit, args=(line("seventh"),))
            too_many.start()
            too_many.join(0.1)
            assert too_many.is_alive(), "nothing bounds a task that is being stopped"
        too_many.join(TIMEOUT_S)
        small.writer.flush(TIMEOUT_S)
        assert [entry.message for entry in reader.read_entries("t")][-3:] == ["fourth", "sixth", "seventh"]

    def test_closing_sends_those_who_wait_away(self, small: Desk, reader: Store) -> None:
        refused: list[str] = []

        def bring() -> None:
            try:
                small.writer.submit(line("too late"))
            except StorageUnavailable as error:
                refused.append(error.code)

        with small.held():
            for entry in numbered(3):
                small.writer.submit(entry)
            bringer = threading.Thread(target=bring)
            bringer.start()
            closer = threading.Thread(target=small.writer.close, args=(TIMEOUT_S,))
            closer.start()
            bringer.join(TIMEOUT_S)
            assert refused == ["shutting_down"]
        closer.join(TIMEOUT_S)
        assert [entry.message for entry in reader.read_entries("t")] == ["hold", "line 0", "line 1", "line 2"]

    @pytest.mark.parametrize(
        ("limits", "nearly", "more"),
        [
            ({"max_characters": 1000}, line("x" * 999), line("y" * 5000)),
            ({"max_points": 10}, line("x", metrics=of_many(9)), line("y", metrics=of_many(50))),
        ],
        ids=["characters", "values of metrics"],
    )
    def test_what_lines_hold_counts_as_well(
        self, database: Database, limits: dict[str, int], nearly: LogEntry, more: LogEntry
    ) -> None:
        desk = Desk(database, **limits)
        desk.writer.start()
        desk.create()
        with desk.held():
            desk.writer.submit(nearly)
            desk.writer.submit(more)
            bringer = threading.Thread(target=desk.writer.submit, args=(line("z"),))
            bringer.start()
            bringer.join(0.1)
            assert bringer.is_alive(), "there was no room for it"
        bringer.join(TIMEOUT_S)
        assert desk.writer.close(TIMEOUT_S)
        assert [message[0] for message in desk.messages] == ["h", "x", "y", "z"]

    def test_lines_with_many_values_are_committed_a_few_at_a_time(self, database: Database) -> None:
        desk = Desk(database, max_points=10 * MAX_BATCH_POINTS)
        desk.writer.start()
        desk.create()
        sizes: list[int] = []
        desk.on_publish = lambda committed: sizes.extend(len(task.entries) for task in committed)
        many = of_many(MAX_BATCH_POINTS // 2)
        with desk.held():
            for _ in range(4):
                desk.writer.submit(line(metrics=many))
        assert desk.writer.close(TIMEOUT_S)
        assert sizes[-2:] == [2, 2]

    def test_a_task_whose_lines_wait_makes_no_other_task_wait(self, small: Desk, reader: Store) -> None:
        small.create("other")
        with small.held():
            for entry in numbered(3):
                small.writer.submit(entry)
            for entry in numbered(3, "other"):
                small.writer.submit(entry)
        small.writer.flush(TIMEOUT_S)
        assert len(reader.read_entries("other")) == 3

    def test_a_flood_of_one_task_leaves_the_others_their_pace(self, database: Database, reader: Store) -> None:
        desk = Desk(database)
        desk.writer.start()
        desk.create()
        desk.create("other")
        over = threading.Event()

        def flood() -> None:
            entry = line("a line of a flood")
            while not over.is_set():
                desk.writer.submit(entry)

        flooding = threading.Thread(target=flood)
        flooding.start()
        for entry in numbered(20, "other"):
            desk.submit(entry).result(TIMEOUT_S)
        waiting = sum(each.lines for each in desk.writer._waiting.values())
        over.set()
        flooding.join(TIMEOUT_S)
        assert desk.writer.close(TIMEOUT_S)
        assert waiting <= MAX_BATCH
        assert len(reader.read_entries("other")) == 20


class TestReadingOn:
    def test_of_the_lines_of_a_transaction_the_last_place_counts(self, desk: Desk, reader: Store) -> None:
        memories = [Memory() for _ in range(2)]
        assert reader.read_progress("t") == (0, None)
        with desk.held():
            for position, memory in zip((10, 20), memories, strict=True):
                desk.writer.submit(line(position=position, memory=memory))
            desk.writer.submit(line("of the service's own"))
        desk.writer.flush(TIMEOUT_S)
        assert reader.read_progress("t") == (20, memories[-1])
        desk.submit(line("another")).result(TIMEOUT_S)
        assert reader.read_progress("t") == (20, memories[-1])

    def test_a_line_that_no_store_can_hold_moves_the_place_on(
        self, desk: Desk, reader: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        desk.submit(line("bad", step=2**70, position=30)).result(TIMEOUT_S)
        assert reader.read_progress("t")[0] == 30

    def test_large_columns_are_written_when_they_change(self, desk: Desk, database: Database) -> None:
        updates: list[str] = []
        event.listen(
            database.engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: updates.append(statement) if "UPDATE tasks" in statement else None,
        )
        desk.submit(line("plain")).result(TIMEOUT_S)
        desk.submit(line("told", warns=True)).result(TIMEOUT_S)
        desk.submit(line("moved", priority=1)).result(TIMEOUT_S)
        plain, told, moved = updates
        for column in ("request", "warnings", "latest_metrics", "parser_memory", "priority"):
            assert column not in plain
        assert "warnings" in told
        assert "request" not in told
        assert "priority" in moved


class TestReparse:
    def rereading(self, desk: Desk) -> Rereading:
        unread = replace(desk.states["t"], last_seq=0, latest_metrics={}, percents=frozenset())
        return Rereading(unread, LogReading(log_format="none"), keep=10)

    def test_it_is_a_transaction_of_its_own_between_the_lines_before_and_after(
        self, desk: Desk, reader: Store, commits: list[str]
    ) -> None:
        with desk.held():
            commits.clear()
            for number in range(3):
                desk.writer.submit(line(f"Train Loss: {number}", metrics={"train_loss": number}, parsed=True))
            rereading = self.rereading(desk)
            desk.writer.submit(Reparse("t", rereading, None))
            desk.writer.submit(line("after", metrics={"val_loss": 1}, parsed=True))
        desk.writer.flush(TIMEOUT_S)
        assert len(commits) == 3
        assert [entry.metrics for entry in reader.read_entries("t")] == [None, None, None, None, {"val_loss": 1}]
        stored = reader.get_task("t")
        assert stored == desk.states["t"]
        assert stored.latest_metrics == {"val_loss": 1}

    def test_it_is_done_again_while_the_store_refuses(self, store: EmptyStore, desk: Desk, reader: Store) -> None:
        desk.submit(line("Train Loss: 1", metrics={"train_loss": 1}, parsed=True)).result(TIMEOUT_S)
        with complaint() as complained:
            with store.refusing_writes():
                desk.writer.submit(Reparse("t", self.rereading(desk), None))
                assert complained.wait(TIMEOUT_S)
            desk.writer.flush(TIMEOUT_S)
        assert [entry.metrics for entry in reader.read_entries("t")] == [None]

    def test_of_a_task_that_was_deleted_nothing_is_left(
        self, desk: Desk, reader: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        rereading = self.rereading(desk)
        desk.submit(DeleteTask("t")).result(TIMEOUT_S)
        assert isinstance(desk.submit(Reparse("t", rereading, None)).exception(TIMEOUT_S), TaskNotFound)
        assert caplog.text == ""

    def test_where_old_lines_have_gone_meanwhile_nothing_is_changed(self, desk: Desk, reader: Store) -> None:
        """What is left of them, read again, would say something else."""
        desk.submit(line("Train Loss: 1", metrics={"train_loss": 1}, parsed=True)).result(TIMEOUT_S)
        rereading = self.rereading(desk)

        def remove(connection: Connection) -> list[Notice]:
            connection.execute(update(tasks).values(removed_until=1))
            return []

        desk.submit(Apply(remove)).result(TIMEOUT_S)
        assert isinstance(desk.submit(Reparse("t", rereading, None)).exception(TIMEOUT_S), LinesRemoved)
        desk.submit(line("after")).result(TIMEOUT_S)
        assert [entry.metrics for entry in reader.read_entries("t")] == [{"train_loss": 1}, None]


def test_an_error_of_the_store_shows_no_value(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """A request may hold secrets of a command's environment."""
    secret = task_state("new", request={"env": {"TOKEN": "hunter2"}}, priority=2**70)
    with pytest.raises((DBAPIError, OverflowError)) as refused:
        desk.submit(CreateTask(secret)).result(TIMEOUT_S)
    assert "hunter2" not in str(refused.value) + caplog.text


class TestClosing:
    def test_what_waits_is_committed_first(self, database: Database, reader: Store) -> None:
        desk = Desk(database)
        desk.writer.start()
        desk.create()
        with desk.held():
            for entry in numbered(10):
                desk.writer.submit(entry)
            closer = threading.Thread(target=desk.writer.close, args=(TIMEOUT_S,))
            closer.start()
        closer.join(TIMEOUT_S)
        assert len(reader.read_entries("t")) == 11

    def test_nothing_is_taken_afterwards(self, database: Database, reader: Store) -> None:
        desk = Desk(database)
        desk.writer.start()
        desk.create()
        assert desk.writer.close(TIMEOUT_S)
        with pytest.raises(StorageUnavailable, match="shutting down"):
            desk.writer.submit(line())
        with pytest.raises(StorageUnavailable, match="shutting down"):
            desk.writer.flush(TIMEOUT_S)
        assert reader.read_entries("t") == []

    def test_a_line_that_is_not_admitted_is_not_taken(self, desk: Desk, reader: Store) -> None:
        def refuse() -> None:
            raise TaskConflict("not this one")

        with pytest.raises(TaskConflict, match="not this one"):
            desk.writer.submit(line(), admit=refuse)
        desk.writer.flush(TIMEOUT_S)
        assert reader.read_entries("t") == []


class TestPoints:
    def test_every_value_knows_the_line_it_came_from(self, desk: Desk, database: Database) -> None:
        carried = {"epoch": 2, "total_epochs": 5, "total_steps": 100}
        desk.writer.submit(line(metrics={**carried, "train_loss": 0.5, "train_acc": None}, step=40))
        desk.writer.submit(line(metrics={"my_own": 1.5}))
        desk.writer.flush(TIMEOUT_S)
        with database.engine.connect() as connection:
            rows = connection.execute(select(metric_points).order_by(metric_points.c.seq, metric_points.c.name)).all()
            entries = connection.execute(select(log_entries.c.seq, log_entries.c.timestamp)).all()
        times = {seq: timestamp.timestamp() for seq, timestamp in entries}
        assert [row.at for row in rows] == [times[row.seq] for row in rows]
        assert [tuple(row)[:-1] for row in rows] == [
            ("t", "train_acc", 1, 2.0, 40, None, 1),
            ("t", "train_loss", 1, 2.0, 40, 0.5, 1),
            ("t", "my_own", 2, None, None, 1.5, 1),
        ]


class TestLimits:
    def test_the_last_ones_of_each_device_are_kept(self, desk: Desk, reader: Store) -> None:
        assert reader.device_limits() == {}
        with desk.held():
            for limits in ({"cpu": 2, "cuda:0": 0}, {"cuda:0": 3, "cuda:1": None}):
                done = desk.submit(SetLimits(limits))
        done.result(TIMEOUT_S)
        assert reader.device_limits() == {"cpu": 2, "cuda:0": 3}
        desk.submit(SetLimits({"cpu": None})).result(TIMEOUT_S)
        assert reader.device_limits() == {"cuda:0": 3}

    def test_they_are_set_once_the_store_takes_writes_again(self, store: EmptyStore, desk: Desk, reader: Store) -> None:
        with store.refusing_writes():
            done = desk.submit(SetLimits({"cpu": 2}))
            with pytest.raises(TimeoutError):
                done.result(0.2)
        done.result(TIMEOUT_S)
        assert reader.device_limits() == {"cpu": 2}
