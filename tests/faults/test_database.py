"""A store that is locked, cut short, gone, somebody else's or not to be written: before the start and while it runs."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.errors import StoreUnusable
from services.executors.base import Run
from services.log_queue import RING_SIZE
from services.storage.database import Database
from services.storage.tables import SCHEMA_REVISION
from settings import Settings
from tests.api.viewer import Viewer
from tests.faults.disk import read_only
from tests.faults.running import TIMEOUT_S, TRAINING, Running, refusal, service, until
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.service_process import ServiceProcess
from tests.services.refusing import locked
from trainer.errors import TrainingStopped

COUNT = """
import itertools, time
for number in itertools.count(1):
    print(f"line {number}")
    time.sleep(0.005)
"""


def count(_run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
    """A trainer in a thread that prints numbered lines until it is stopped."""
    number = 0
    while not should_stop():
        number += 1
        logger.info("line %d", number)
        time.sleep(0.005)
    raise TrainingStopped


def assert_whole(lines: list[tuple[int, str]]) -> None:
    """Neither a line nor a number is missing, twice or in another place."""
    assert [number for number, _ in lines] == list(range(1, len(lines) + 1))
    counted = [int(message.split()[1]) for _, message in lines if message.startswith("line ")]
    assert counted == list(range(1, len(counted) + 1))


def old_store(path: Path) -> None:
    """A store that a service has used and closed, a few pages long."""
    Database(f"sqlite:///{path}").close()


# --- Before the start --------------------------------------------------------------------------------------------


def text(path: Path) -> None:
    path.write_text("Dear diary, today I trained a network.\n" * 200)


def of_another_program(path: Path, *, journal: str = "delete", tables: tuple[str, ...] = ("albums",)) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        for table in tables:
            connection.execute(f"CREATE TABLE {table} (version_num TEXT)")
            connection.execute(f"INSERT INTO {table} VALUES (?)", (SCHEMA_REVISION,))
        connection.commit()


def of_a_newer_release(path: Path) -> None:
    old_store(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()


def cut_short(path: Path, keep: float = 0.5) -> None:
    old_store(path)
    os.truncate(path, int(path.stat().st_size * keep))


def damaged_in_front(path: Path) -> None:
    old_store(path)
    with path.open("r+b") as file:
        file.write(b"\xff" * 4096)


NO_STORES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a text": (text, "file is not a database"),
    "another program's": (of_another_program, "belongs to another program: 'albums' is in it. It was left as it is"),
    "another program's, in WAL mode": (lambda path: of_another_program(path, journal="wal"), "another program"),
    "another program's that uses Alembic": (
        lambda path: of_another_program(path, tables=("albums", "alembic_version")),
        "another program: 'albums'",
    ),
    "a newer release's": (of_a_newer_release, r"newer release \(schema revision '9999'"),
    "cut short": (cut_short, "database disk image is malformed"),
    "emptied": (lambda path: cut_short(path, 0), "is empty, though it was not when a service last had it open"),
    "damaged in front": (damaged_in_front, "file is not a database"),
}


@pytest.mark.parametrize(("make", "words"), NO_STORES.values(), ids=NO_STORES)
def test_what_is_no_store_is_refused_in_words_and_left_byte_for_byte(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "training.db"
    make(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreUnusable, match=words) as refused:
            Database(f"sqlite:///{path}")
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert path.read_bytes() == before


def test_a_store_that_is_gone_but_for_its_log_is_not_begun_anew(tmp_path: Path) -> None:
    path, log = tmp_path / "training.db", tmp_path / "training.db-wal"
    old_store(path)
    path.unlink()
    log.write_bytes(b"the last lines")
    with pytest.raises(StoreUnusable, match=r"is gone, but a part of it is still there: .*training.db-wal"):
        Database(f"sqlite:///{path}")
    assert log.read_bytes() == b"the last lines"
    assert not path.exists()


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "training.db").mkdir()
    with pytest.raises(StoreUnusable, match=r"training\.db cannot be written to: Is a directory"):
        Database(f"sqlite:///{tmp_path}/training.db")


def test_a_store_that_another_program_holds_locked_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "training.db"
    of_another_program(path)
    with locked(path), pytest.raises(StoreUnusable, match=r"training\.db cannot be opened: database is locked"):
        Database(f"sqlite:///{path}")


def test_the_process_says_it_in_one_sentence_and_ends(tmp_path: Path) -> None:
    of_another_program(tmp_path / "albums.db")
    before = (tmp_path / "albums.db").read_bytes()
    status, said = refusal(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/albums.db")
    assert status > 0
    assert len(said) == 1
    assert said[0].startswith(f"The database {tmp_path}/albums.db belongs to another program")
    assert (tmp_path / "albums.db").read_bytes() == before


def test_a_folder_that_takes_no_writes_is_named(tmp_path: Path) -> None:
    old_store(tmp_path / "state/training.db")
    with read_only(tmp_path / "state"):
        status, said = refusal(tmp_path)
    words = r"Read-only file system|Permission denied"
    assert status > 0
    assert [line for line in said if "Traceback" in line] == []
    assert len(said) == 1
    assert any(each in said[0] for each in words.split("|")), said
    assert "cannot be written to" in said[0]


def test_a_log_that_is_missing_after_a_crash_is_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with service(tmp_path) as running:
        running.process.end(signal.SIGKILL)
    (tmp_path / "state/training.db-wal").unlink()
    Database(f"sqlite:///{tmp_path}/state/training.db").close()
    assert "training.db-wal is missing, though the last service did not end in order" in caplog.text
    caplog.clear()
    Database(f"sqlite:///{tmp_path}/state/training.db").close()
    assert caplog.text == ""


# --- Two services ------------------------------------------------------------------------------------------------

OTHER_NAMES: dict[str, Callable[[Path, Path], None]] = {
    "the same": lambda path, other: None,
    "a link": lambda path, other: other.symlink_to(path),
    "a hard link": lambda path, other: other.hardlink_to(path),
    "without its lock file": lambda path, other: path.with_name("training.db.lock").unlink(),
}


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with service(tmp_path_factory.mktemp("owner")) as running:
        yield running


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_second_service_on_one_store_is_refused_whatever_it_is_called(
    owner: Running, tmp_path: Path, name: str
) -> None:
    path, other = owner.folder / "state/training.db", tmp_path / "other.db"
    OTHER_NAMES[name](path, other)
    status, said = refusal(tmp_path, DATABASE_URL=f"sqlite:///{other if other.exists() else path}")
    assert status > 0
    assert len(said) == 1
    assert said[0].startswith("Another service process is using the store ")
    assert owner.run("t", "print(1)", tmp_path).status_code == 200
    assert owner.ended("t")["status"] == "completed"
    owner.http.delete(f"{TRAINING}/t").raise_for_status()


def test_several_workers_are_refused_and_end(tmp_path: Path) -> None:
    arguments = ("-m", "uvicorn", "app_refactored:app", "--port", "0", "--workers", "2")
    with ServiceProcess(*arguments, folder=tmp_path) as process:
        assert process.end(within_s=30) >= 0
        said = "".join(process.output)
    assert said.count("Another service process is using the store ") == 1
    assert "do not use `uvicorn --workers`" in said
    assert "Traceback" not in said


# --- While it runs -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that has to give its store up need not hope for so long."""
    monkeypatch.setattr("services.base_service.CLOSE_TIMEOUT_S", 0.5)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before `counting`, whose service then waits for no lock."""
    monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.05)


class Counting:
    """A real server, one training `t` that counts, and the store's file."""

    def __init__(self, server: RunningServer, http: httpx.Client, folder: Path) -> None:
        self.server = server
        self.http = http
        self.path = folder / "training.db"

    def lines(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        while True:
            query = {"limit": 1000, "after": found[-1][0] if found else 0}
            page = self.http.get(f"{TRAINING}/t/logs/history", params=query).raise_for_status().json()
            found += [(entry["id"], entry["message"]) for entry in page["entries"]]
            if "next_after" not in page:
                return found

    def goes_on(self) -> list[tuple[int, str]]:
        """Its lines, once there are more than now."""
        known = len(self.lines())
        return until(self.lines, lambda lines: len(lines) > known + 20)

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/api/v1/health").raise_for_status().json()
        return answer

    def status(self, task_id: str = "t") -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get(f"{TRAINING}/{task_id}").raise_for_status().json()
        return answer

    def degraded(self, words: str, task_id: str = "t") -> None:
        """Health and status say so. A transaction that was under way may have had other words for it."""
        until(self.health, lambda health: health["status"] == "degraded" and words in health["storage"])
        assert self.status(task_id)["storage"] == "degraded"

    def well(self) -> None:
        until(self.health, lambda health: health["status"] == "ok")

    def seen(self, number: int) -> list[str]:
        """What a new viewer gets up to a line."""
        with Viewer(self.server.url, "t") as viewer:
            return [
                event.entry["message"] for event in viewer.until(lambda entry: entry["message"] == f"line {number}")
            ]


@pytest.fixture
def counting(
    server: RunningServer, http: httpx.Client, settings: Settings, executor: ScriptedExecutor, body: dict[str, Any]
) -> Counting:
    executor.script = count
    made = Counting(server, http, settings.state_dir)
    http.post(f"{TRAINING}/start", json=body | {"task_id": "t"}).raise_for_status()
    made.goes_on()
    return made


def refuses(counting: Counting, body: dict[str, Any]) -> None:
    answer = counting.http.post(f"{TRAINING}/start", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")


class TestLocked:
    def test_ten_seconds_are_waited_for(self, counting: Counting, body: dict[str, Any]) -> None:
        accepted: list[int] = []

        def start() -> None:
            accepted.append(counting.http.post(f"{TRAINING}/start", json=body | {"task_id": "new"}).status_code)

        with locked(counting.path):
            before = counting.lines()
            starting = threading.Thread(target=start)
            starting.start()
            starting.join(10)
            assert starting.is_alive()
            assert counting.lines() == before, "lines that are not committed were shown"
        starting.join(10)
        assert accepted == [200]
        counting.well()
        assert_whole(counting.goes_on())

    @pytest.mark.usefixtures("impatient")
    def test_a_training_in_a_thread_that_waits_with_a_line_hears_of_a_stop(
        self, counting: Counting, executor: ScriptedExecutor, body: dict[str, Any]
    ) -> None:
        begun, go, ended = threading.Event(), threading.Event(), threading.Event()

        def flood(_run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
            begun.set()
            go.wait(TIMEOUT_S)
            try:
                while not should_stop():
                    logger.info("one more")
            finally:
                ended.set()
            raise TrainingStopped

        counting.http.post(f"{TRAINING}/t/stop").raise_for_status()
        executor.script = flood
        counting.http.post(f"{TRAINING}/start", json=body | {"task_id": "flood"}).raise_for_status()
        assert begun.wait(TIMEOUT_S)
        with locked(counting.path):
            go.set()
            counting.degraded("database is locked", "flood")
            assert not ended.wait(1.0), "it did not wait, as it must when nothing can be stored"
            assert counting.http.post(f"{TRAINING}/flood/stop").status_code == 200
            assert ended.wait(TIMEOUT_S)
        until(lambda: counting.status("flood"), lambda task: task["status"] == "cancelled")

    @pytest.mark.usefixtures("impatient")
    def test_for_longer_it_is_said_and_nothing_is_lost(self, counting: Counting, body: dict[str, Any]) -> None:
        with closing(sqlite3.connect(counting.path)) as other:
            other.execute("PRAGMA busy_timeout=10000")
            other.execute("BEGIN IMMEDIATE")
            counting.degraded("database is locked")
            refuses(counting, body)
            other.rollback()
        counting.well()
        assert_whole(counting.goes_on())


class TestGone:
    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_what_is_moved_away_is_missed_and_found_again(
        self, counting: Counting, body: dict[str, Any], what: str
    ) -> None:
        path = counting.path if what == "file" else counting.path.parent
        away = path.with_name("away")
        path.rename(away)
        counting.degraded("training.db is gone: put it back")
        assert not counting.path.exists(), "an empty one was begun in its place"
        before = counting.lines()
        assert counting.seen(10)[-1] == "line 10"
        refuses(counting, body)
        away.rename(path)
        counting.well()
        after = counting.goes_on()
        assert after[: len(before)] == before
        assert_whole(after)

    def test_what_is_deleted_stays_readable_as_long_as_the_service_runs(
        self, counting: Counting, body: dict[str, Any]
    ) -> None:
        before = counting.lines()
        counting.path.unlink()
        counting.degraded("training.db is gone")
        lines = counting.lines()
        assert lines[: len(before)] == before
        assert_whole(lines)
        refuses(counting, body)
        assert counting.http.post(f"{TRAINING}/t/stop").status_code == 200
        counting.server.stop()

    def test_another_file_in_its_place_is_not_written_to(self, counting: Counting, body: dict[str, Any]) -> None:
        other = counting.path.with_name("other.db")
        of_another_program(other)
        before = other.read_bytes()
        mine = counting.path.with_name("mine.db")
        counting.path.rename(mine)
        other.rename(counting.path)
        counting.degraded("training.db is another file now")
        refuses(counting, body)
        assert counting.path.read_bytes() == before
        mine.replace(counting.path)
        counting.well()
        assert_whole(counting.goes_on())


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_store_that_is_cut_short_takes_no_more_lines_and_is_not_opened_again(
    counting: Counting, body: dict[str, Any], tmp_path: Path, share: float
) -> None:
    with closing(sqlite3.connect(counting.path)) as other:
        other.execute("PRAGMA wal_checkpoint(FULL)")
    counting.goes_on()
    os.truncate(counting.path, int(counting.path.stat().st_size * share))
    counting.degraded("training.db has been cut short: end the service, and restore it")
    known = counting.status()
    refuses(counting, body)
    time.sleep(0.2)  # lines that would be stored, and were not
    assert counting.status() == known
    counting.server.stop()
    copy = shutil.copytree(counting.path.parent, tmp_path / "copy")  # the writer of this process still tries
    with pytest.raises(StoreUnusable):
        Database(f"sqlite:///{copy}/training.db")


@pytest.mark.usefixtures("impatient")
def test_a_stream_of_lines_that_cannot_be_read_ends_early_and_quietly(
    counting: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    until(counting.status, lambda _: len(counting.lines()) > RING_SIZE + 20)
    os.truncate(counting.path, 0)
    counting.degraded("training.db has been cut short")
    counting.server.service.store._engine.dispose()  # connections hold pages that they have read
    with Viewer(counting.server.url, "t") as viewer:
        assert list(viewer.events()) == []
    assert "Exception in ASGI application" not in caplog.text
    refused = counting.http.get(f"{TRAINING}/t/logs/history")
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")


class TestLogRemoved:
    def test_what_was_in_it_is_saved_and_the_service_goes_on(self, counting: Counting) -> None:
        before = counting.lines()
        counting.path.with_name("training.db-wal").unlink()
        after = counting.goes_on()
        assert after[: len(before)] == before
        assert_whole(after)
        assert counting.health()["status"] == "ok"

    def test_it_is_there_after_a_kill(self, tmp_path: Path) -> None:
        with service(tmp_path) as first:
            first.run("t", COUNT, tmp_path)
            before = until(lambda: first.lines("t"), lambda lines: len(lines) > 50)
            (tmp_path / "state/training.db-wal").unlink()
            lines = until(lambda: first.lines("t"), lambda lines: len(lines) > len(before) + 50)
            first.process.end(signal.SIGKILL)
        with service(tmp_path) as second:
            assert second.lines("t")[: len(lines)] == lines
            second.stop("t")
            second.ended("t")
            assert_whole(second.lines("t"))
