"""A store that is copied while a service writes to it, and put back."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.base_service import BaseService
from services.errors import StoreInUse, StoreUnusable
from services.storage.backup import backup
from services.storage.database import Database
from services.storage.restore import restore
from services.storage.sqlite_file import SqliteFile
from services.storage.store import Store
from tests.service_process import REPOSITORY, ServiceProcess
from tests.services.builders import line, task_state

COUNTING = ("-m", "tests.service_process")


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store" / "training.db"


@pytest.fixture
def filled(file: Path) -> Iterator[BaseService]:
    """A service that has task `t` with ten lines."""
    service = BaseService(Database(url_of(file)))
    service.create_log_queue("t", task_state())
    for number in range(10):
        service.log_queues["t"].put(line(f"line {number}"))
    service.flush_log("t")
    yield service
    service.close()


def messages_in(store: Path, task_id: str = "t") -> list[str]:
    with closing(Database(url_of(store))) as database:
        return [entry.message for entry in Store(database).read_entries(task_id)]


TEN = [f"line {number}" for number in range(10)]


def run(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"services.storage.{program}", *arguments]
    env = {"PYTHONPATH": str(REPOSITORY), "STATE_DIR": "store"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


class TestBackup:
    def test_what_was_committed_before_it_began_is_in_it_while_lines_come_in(
        self, filled: BaseService, file: Path, tmp_path: Path
    ) -> None:
        """Each copy is whole: numbers without a gap, from the first to at least those known before."""
        stop = threading.Event()

        def write() -> None:
            number = 10
            while not stop.is_set():
                filled.log_queues["t"].put(line(f"line {number}"))
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            committed = []
            for number in range(5):
                committed.append(filled.get_task("t").last_seq)
                backup(url_of(file), tmp_path / f"copy-{number}.db")
        finally:
            stop.set()
            writer.join()
        for number, known in enumerate(committed):
            found = messages_in(tmp_path / f"copy-{number}.db")
            assert found == [f"line {each}" for each in range(len(found))]
            assert len(found) >= known

    def test_a_copy_is_one_file_that_others_cannot_read(self, filled: BaseService, file: Path, tmp_path: Path) -> None:
        folder = tmp_path / "copies"
        folder.mkdir()
        copy = backup(url_of(file), folder)
        assert list(folder.iterdir()) == [copy]
        assert copy.stat().st_mode & 0o777 == 0o600

    def test_a_folder_is_made_where_the_destination_has_no_suffix(
        self, filled: BaseService, file: Path, tmp_path: Path
    ) -> None:
        copy = backup(f"sqlite:///{file}", tmp_path / "backups")
        assert copy.parent == tmp_path / "backups"
        assert copy.name.startswith("training-")

    def test_what_is_there_already_is_left_as_it_is(self, filled: BaseService, file: Path, tmp_path: Path) -> None:
        there = tmp_path / "there.db"
        there.write_text("mine")
        with pytest.raises(FileExistsError):
            backup(url_of(file), there)
        assert there.read_text() == "mine"
        assert {path.name for path in tmp_path.iterdir()} == {"store", "there.db"}

    def test_a_store_that_no_service_has_open_is_copied_as_well(
        self, filled: BaseService, file: Path, tmp_path: Path
    ) -> None:
        filled.close()
        assert messages_in(backup(url_of(file), tmp_path / "copy.db")) == TEN

    def test_what_is_no_store_is_not_copied(self, file: Path, tmp_path: Path) -> None:
        file.parent.mkdir()
        with closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE theirs (id)")
        with pytest.raises(StoreUnusable, match="another program"):
            backup(url_of(file), tmp_path / "copy.db")
        assert not (tmp_path / "copy.db").exists()

    @pytest.mark.parametrize(
        ("call", "means"), [(backup, "pg_dump"), (lambda url, path: restore(path, url), "pg_restore")]
    )
    def test_postgresql_has_its_own_means(self, call: Any, means: str, tmp_path: Path) -> None:
        with pytest.raises(StoreUnusable, match=means):
            call("postgresql+psycopg://db.example.org/training", tmp_path / "copy.db")


class TestRestore:
    def test_a_restored_store_has_what_the_backup_had_and_the_one_before_is_kept(
        self, filled: BaseService, file: Path, tmp_path: Path
    ) -> None:
        copy = backup(url_of(file), tmp_path / "copy.db")
        filled.log_queues["t"].put(line("afterwards"))
        filled.close()

        kept = restore(copy, url_of(file))

        assert messages_in(file) == TEN
        assert kept is not None
        assert messages_in(kept) == [*TEN, "afterwards"]
        assert messages_in(copy) == TEN

    def test_what_the_log_of_a_killed_service_held_is_kept_with_its_store(self, file: Path, tmp_path: Path) -> None:
        with ServiceProcess(*COUNTING, folder=tmp_path, STATE_DIR="store") as process:
            process.start()
            copy = backup(url_of(file), tmp_path / "copy.db")
        assert file.with_name("training.db-wal").stat().st_size > 0
        kept = restore(copy, url_of(file))
        assert kept is not None
        assert kept.with_name(f"{kept.name}-wal").exists()
        assert not file.with_name("training.db-wal").exists()
        with closing(Database(url_of(file))):
            pass

    def test_a_store_that_is_gone_is_brought_back(self, filled: BaseService, file: Path, tmp_path: Path) -> None:
        """As after the loss of a disk: no store, or one that was cut short, which no service opens."""
        copy = backup(url_of(file), tmp_path / "copy.db")
        filled.close()
        file.write_bytes(b"")
        with pytest.raises(StoreUnusable, match="is empty"):
            Database(url_of(file))
        restore(copy, url_of(file))
        assert messages_in(file) == TEN

    def test_a_store_in_use_is_not_replaced(self, filled: BaseService, file: Path, tmp_path: Path) -> None:
        copy = backup(url_of(file), tmp_path / "copy.db")
        inode = file.stat().st_ino
        with pytest.raises(StoreInUse):
            restore(copy, url_of(file))
        assert file.stat().st_ino == inode
        assert not list(file.parent.glob("*restored*"))
        filled.log_queues["t"].put(line("goes on"))
        filled.flush_log("t")

    @pytest.mark.parametrize("damage", ["cut", "flipped", "theirs", "newer", "missing"])
    def test_what_is_no_whole_backup_changes_nothing(
        self, filled: BaseService, file: Path, tmp_path: Path, damage: str
    ) -> None:
        copy = backup(url_of(file), tmp_path / "copy.db")
        filled.close()
        before = file.read_bytes()
        content = bytearray(copy.read_bytes())
        if damage == "cut":
            copy.write_bytes(content[: len(content) // 2])
        elif damage == "flipped":
            content[4096:8192] = bytes(255 - each for each in content[4096:8192])
            copy.write_bytes(content)
        elif damage == "missing":
            copy.unlink()
        else:
            with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
                broken = {"theirs": "DROP TABLE tasks", "newer": "UPDATE alembic_version SET version_num = '9999'"}
                connection.execute(broken[damage])
        with pytest.raises(StoreUnusable):
            restore(copy, url_of(file))
        assert file.read_bytes() == before
        assert {path.name for path in file.parent.iterdir()} == {"training.db", "training.db.lock"}

    def test_one_that_is_cut_short_is_done_again_before_a_service_begins(
        self, filled: BaseService, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = backup(url_of(file), tmp_path / "copy.db")
        filled.close()
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise OSError("the power is gone")

            patch.setattr("services.storage.sqlite_file.Path.rename", fail)
            with pytest.raises(OSError, match="power"):
                restore(copy, url_of(file))
        with pytest.raises(StoreUnusable, match="run it again"):
            Database(url_of(file))
        restore(copy, url_of(file))
        assert messages_in(file) == TEN

    def test_a_restored_store_gives_room_back(self, filled: BaseService, file: Path, tmp_path: Path) -> None:
        """Also where the one that was copied, of an older release, did not."""
        copy = backup(url_of(file), tmp_path / "copy.db")
        filled.close()
        with closing(sqlite3.connect(copy, isolation_level=None)) as older:
            older.execute("PRAGMA auto_vacuum=NONE")
            older.execute("VACUUM")
            assert older.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        restore(copy, url_of(file))
        with closing(sqlite3.connect(file)) as restored:
            assert restored.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_service_goes_on_from_a_backup_that_was_made_while_it_trained(tmp_path: Path, body: dict[str, Any]) -> None:
    """By the commands: what a viewer had seen before the backup is there, and what ran goes on as after a crash."""
    with ServiceProcess(*COUNTING, folder=tmp_path, STATE_DIR="store") as process:
        with httpx.Client(base_url=process.start().url, timeout=30) as http:
            for task_id in ("runs", "waits"):
                http.post("/api/v2/training/start", json=body | {"task_id": task_id}).raise_for_status()
            seen = read_lines(http, "runs", 20)
            refused = run("restore", "copy.db", folder=tmp_path)
            done = run("backup", "copy.db", folder=tmp_path)
            assert done.returncode == 0, done.stderr
            read_lines(http, "runs", 60)
        assert process.end(signal.SIGKILL) != 0
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    restored = run("restore", "copy.db", folder=tmp_path)
    assert restored.returncode == 0, restored.stderr
    with (
        ServiceProcess(*COUNTING, folder=tmp_path, STATE_DIR="store") as process,
        httpx.Client(base_url=process.start().url, timeout=30) as http,
    ):
        assert read_lines(http, "runs", 20) == seen
        running = http.get("/api/v2/training/runs").json()
        assert running["attempt"] == 2
        assert [each["reason"] for each in running["history"]].count("interrupted") == 1
        assert http.get("/api/v2/training/waits").json()["status"] == "queued"
        ids = [int(each["id"]) for each in history(http, "runs")]
        assert ids == list(range(1, len(ids) + 1))


def history(http: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = http.get(f"/api/v2/training/{task_id}/logs/history?limit=1000").json()["entries"]
    return entries


def read_lines(http: httpx.Client, task_id: str, number: int) -> list[str]:
    """The first lines of a stream."""
    with http.stream("GET", f"/api/v2/training/{task_id}/logs") as stream:
        found: list[str] = []
        for text in stream.iter_lines():
            if text.startswith("data:"):
                found.append(text)
                if len(found) == number:
                    break
    return found


def test_the_store_of_a_link_is_the_one_that_it_leads_to(filled: BaseService, file: Path, tmp_path: Path) -> None:
    copy = backup(url_of(file), tmp_path / "copy.db")
    filled.close()
    link = tmp_path / "link.db"
    link.symlink_to(file)
    restore(copy, url_of(link))
    assert link.is_symlink()
    assert SqliteFile(link).path == file
    assert messages_in(file) == TEN
