"""The crash test finds nothing in a short run, and each of its checks can fail."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.crash import kills
from benchmarks.crash.audit import check_store, compare
from benchmarks.crash.checkpoints import BEST, LAST, Checkpoints, Found, look_at
from benchmarks.crash.kills import SORTS, Sort
from benchmarks.crash.ledger import MAX_RESTARTS, Kind, Ledger, Promise, Task
from benchmarks.crash.restart import suspicious
from benchmarks.crash_test import CrashTest
from benchmarks.event_stream import Event
from models.schemas import TrainingRequest
from services.base_service import BaseService
from services.storage.database import Database

SHORT = (
    kills.start_reply,
    kills.mid_commit,
    kills.command,
    kills.during_stop,
    kills.trainer_mid_checkpoint,
    kills.during_restart,
    kills.start_reply,
    kills.trainer_without_service,
    kills.mid_commit,
    kills.thread_mid_checkpoint,
)


async def test_nothing_that_a_client_was_told_is_lost_in_ten_kills(tmp_path: Path) -> None:
    by_kill = {sort.kill: sort for sort in SORTS}
    sorts: Sequence[Sort] = [by_kill[kill] for kill in SHORT]
    test = CrashTest(tmp_path, seed=0)
    await test.run(sorts)
    test.report()
    assert test.ledger.broken == []
    assert test.kills.total() == len(SHORT)
    assert test.ledger.looked_at[Promise.CHECKPOINTS] > 0
    assert test.ledger.looked_at[Promise.INTEGRITY] > len(SHORT)


def task_told(lines: int = 0, **fields: Any) -> Task:
    """A command of which viewers have seen so many lines."""
    task = Task("t", Kind.PRINTER, {"command": ["x"]}, Path("runs/t"), acknowledged=True, **fields)
    task.lines = {number: ("INFO", f"line {number} of t", None) for number in range(1, lines + 1)}
    return task


def told(task: Task) -> Ledger:
    ledger = Ledger()
    ledger.tasks[task.task_id] = task
    return ledger


class TestStore:
    """A store of the service, and a client that has seen all of it."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        path = tmp_path / "store.db"
        service = BaseService(Database(f"sqlite:///{path}"))
        service.create_log_queue("t")
        for number in range(1, 301):
            service.add_log("t", "INFO", f"line {number} of t", metrics={"loss": 1 / number})
        assert service.close()
        return path

    def found(self, store: Path, ledger: Ledger) -> set[Promise]:
        return {promise for promise, _ in check_store(store, ledger)}

    def test_a_sound_store_breaks_no_promise(self, store: Path) -> None:
        assert self.found(store, told(task_told(300))) == set()

    @pytest.mark.parametrize(
        ("tampering", "promise"),
        [
            ("DELETE FROM log_entries WHERE seq = 7", Promise.LINES),
            ("DELETE FROM log_entries WHERE seq = 300", Promise.LINES),
            ("UPDATE log_entries SET seq = 301 WHERE seq = 7", Promise.LINES),
            ("UPDATE log_entries SET seq = seq + 1000; UPDATE tasks SET last_seq = last_seq + 1000", Promise.LINES),
            ("UPDATE log_entries SET message = 'line 8 of t' WHERE seq = 7", Promise.LINES),
            ("UPDATE log_entries SET status = 'completed' WHERE seq = 7", Promise.LINES),
            ("DELETE FROM tasks", Promise.TASKS),
            ("INSERT INTO metric_points (task_id, name, seq) VALUES ('nobody', 'x', 1)", Promise.INTEGRITY),
        ],
    )
    def test_what_is_missing_or_changed_is_found(self, store: Path, tampering: str, promise: Promise) -> None:
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.executescript(tampering)
        assert promise in self.found(store, told(task_told(300)))

    def test_a_page_that_was_overwritten_is_found(self, store: Path) -> None:
        content = bytearray(store.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4096] = bytes(4096)
        store.write_bytes(content)
        assert Promise.INTEGRITY in self.found(store, told(task_told()))

    def test_a_file_that_is_no_database_is_found(self, store: Path) -> None:
        store.write_bytes(b"x" * 8192)
        assert Promise.INTEGRITY in self.found(store, told(task_told()))

    def test_a_deleted_task_must_not_come_back(self, store: Path) -> None:
        ledger = told(task_told(deletion_asked=True, deletion_acknowledged=True))
        assert self.found(store, ledger) == {Promise.ANSWERS}

    def test_a_task_whose_deletion_was_not_answered_may_be_there_or_not(self, store: Path) -> None:
        ledger = told(task_told(300, deletion_asked=True))
        assert self.found(store, ledger) == set()
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.executescript("DELETE FROM metric_points; DELETE FROM log_entries; DELETE FROM tasks")
        assert self.found(store, ledger) == set()


class TestHistory:
    """An ended command: what its trainer printed, and what is stored."""

    PRINTED = tuple(f"line {number} of t" for number in range(1, 6))

    def problems(self, stored: Sequence[str], *, task: Task | None = None, printed: Sequence[str] = PRINTED) -> int:
        task = task or task_told(total=5, end=("completed", None))
        entries = [{"id": number, "level": "INFO", "message": text} for number, text in enumerate(stored, start=1)]
        entries.append({"id": len(entries) + 1, "level": "INFO", "message": "任务结束", "status": "completed"})
        return len(list(compare(task, entries, "".join(f"{line}\n" for line in printed))))

    def test_every_printed_line_once_and_in_order_is_right(self) -> None:
        assert self.problems(["Task accepted", *self.PRINTED]) == 0

    @pytest.mark.parametrize(
        "change",
        [
            lambda lines: lines[:2] + lines[3:],
            lambda lines: lines[:-1],
            lambda lines: [*lines[:3], lines[2], *lines[3:]],
            lambda lines: [lines[1], lines[0], *lines[2:]],
        ],
        ids=["missing", "last missing", "repeated", "out of order"],
    )
    def test_another_sequence_of_lines_is_found(self, change: Callable[[list[str]], list[str]]) -> None:
        assert self.problems(change(list(self.PRINTED))) > 0

    def test_a_line_that_a_viewer_saw_otherwise_is_found(self) -> None:
        task = task_told(total=5, end=("completed", None))
        task.lines = {1: ("INFO", "line 1 of t", None), 2: ("INFO", "something else", None)}
        assert self.problems(self.PRINTED, task=task) == 1

    def test_what_a_stopped_trainer_printed_last_may_be_left_out_where_the_log_says_so(self) -> None:
        task = task_told(total=5, stop_asked=True, end=("cancelled", "user_stop"))
        assert self.problems([*self.PRINTED[:3], "Stopped: the last 24 bytes of output are not shown."], task=task) == 0
        assert self.problems(self.PRINTED[:3], task=task) == 1

    def test_a_history_without_an_end_is_found(self) -> None:
        entries = [{"id": 1, "level": "INFO", "message": "line 1 of t"}]
        assert len(list(compare(task_told(end=("completed", None)), entries, None))) == 1


class TestEnds:
    @pytest.mark.parametrize(
        ("task", "end"),
        [
            (task_told(trainer_killed=True), ("completed", None)),
            (task_told(trainer_killed=True), ("failed", "exit_code_1")),
            (task_told(stop_asked=True), ("failed", "interrupted")),
            (task_told(), ("failed", "supervisor_lost")),
            (task_told(returncode=3), ("completed", None)),
            (Task("t", Kind.THREAD, {}, Path("t"), interruptions=MAX_RESTARTS), ("failed", "interrupted")),
        ],
    )
    def test_an_end_that_cannot_be_true_is_found(self, task: Task, end: tuple[str, str | None]) -> None:
        ledger = told(task)
        ledger.heard_end(task, *end)
        assert [promise for promise, _ in ledger.broken] == [Promise.ENDS]

    @pytest.mark.parametrize(
        ("task", "end"),
        [
            (task_told(trainer_killed=True), ("failed", "killed_by_signal_9")),
            (task_told(stop_asked=True), ("cancelled", "user_stop")),
            (task_told(stop_asked=True), ("completed", None)),
            (task_told(returncode=3), ("failed", "exit_code_3")),
            (Task("t", Kind.THREAD, {}, Path("t"), interruptions=MAX_RESTARTS + 1), ("failed", "interrupted")),
        ],
    )
    def test_a_true_end_that_stays_breaks_nothing(self, task: Task, end: tuple[str, str | None]) -> None:
        ledger = told(task)
        ledger.heard_end(task, *end)
        ledger.heard_end(task, *end)
        assert ledger.broken == []

    def test_an_end_that_changes_is_found(self) -> None:
        ledger = told(task := task_told())
        ledger.heard_end(task, "completed", None)
        ledger.heard_end(task, "failed", "interrupted")
        assert [promise for promise, _ in ledger.broken] == [Promise.ENDS]


class TestViewers:
    def event(self, message: str) -> Event:
        return Event(2, {"level": "INFO", "message": message})

    @pytest.mark.parametrize("after", [0, 2], ids=["gap", "repetition"])
    def test_a_line_out_of_turn_is_found(self, after: int) -> None:
        ledger = told(task := task_told(2))
        ledger.saw_line(task, self.event("line 2 of t"), after=after)
        assert [promise for promise, _ in ledger.broken] == [Promise.LINES]

    def test_a_number_that_means_another_line_now_is_found(self) -> None:
        ledger = told(task := task_told(2))
        ledger.saw_line(task, self.event("line 3 of t"), after=1)
        assert [promise for promise, _ in ledger.broken] == [Promise.LINES]


class TestOrphans:
    ACTIVE = (
        {"task_id": "waits", "status": "queued"},
        {"task_id": "runs", "status": "running"},
        {"task_id": "stops", "status": "stopping"},
    )

    @pytest.mark.parametrize(
        ("queued", "running", "live", "expected"),
        [
            (1, 2, {"runs", "stops"}, set()),
            (1, 2, {"runs"}, {"stops"}),
            (1, 1, {"runs", "stops"}, {"runs", "stops"}),
            (0, 2, {"runs", "stops"}, {"waits"}),
        ],
        ids=["none", "no process", "no place among those that run", "no place in the queue"],
    )
    def test_an_active_task_that_nothing_stands_behind_is_found(
        self, queued: int, running: int, live: set[str], expected: set[str]
    ) -> None:
        assert suspicious(self.ACTIVE, {"queued": queued, "running": running}, live.__contains__) == expected


@pytest.fixture(scope="module")
def trained(image_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of one epoch."""
    from trainer.loop import train

    folder = tmp_path_factory.mktemp("trained")
    request = TrainingRequest(
        model="shufflenet_v2_x0_5",
        num_classes=3,
        train_path=str(image_folders / "train"),
        val_path=str(image_folders / "val"),
        save_path=str(folder),
        num_epochs=1,
        image_size=32,
        pretrained=False,
    )
    train(request, output_dir=folder, device="cpu", logger=logging.Logger("t"), should_stop=lambda: False)
    return folder


class TestCheckpoints:
    async def found(
        self, trained: Path, folder: Path, change: Callable[[Path], object], epochs: int = 1
    ) -> list[Promise]:
        """What is found where a client has seen the end of `epochs`, and then `change` happens."""
        output_dir = folder / "run"
        shutil.copytree(trained, output_dir)
        task = Task("t", Kind.THREAD, {}, output_dir, acknowledged=True)
        task.lines[1] = ("INFO", f"Epoch [{epochs}/2] finished in 0.1s", None)
        ledger = told(task)
        change(output_dir)

        async def load(path: Path) -> Found:
            return look_at(path)

        await Checkpoints(load).check(ledger)
        return [promise for promise, _ in ledger.broken]

    async def test_sound_checkpoints_break_nothing(self, trained: Path, tmp_path: Path) -> None:
        assert await self.found(trained, tmp_path, lambda _folder: None) == []

    @pytest.mark.parametrize("name", [LAST, BEST])
    async def test_a_truncated_checkpoint_is_found(self, trained: Path, tmp_path: Path, name: str) -> None:
        def truncate(folder: Path) -> None:
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: len(content) // 2])

        assert await self.found(trained, tmp_path, truncate) == [Promise.CHECKPOINTS]

    async def test_a_missing_checkpoint_is_found(self, trained: Path, tmp_path: Path) -> None:
        assert await self.found(trained, tmp_path, lambda folder: (folder / LAST).unlink()) == [Promise.CHECKPOINTS]

    async def test_a_checkpoint_older_than_a_client_was_told_is_found(self, trained: Path, tmp_path: Path) -> None:
        assert await self.found(trained, tmp_path, lambda _folder: None, epochs=2) == [Promise.CHECKPOINTS]
