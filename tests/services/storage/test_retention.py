"""What is old goes, and what somebody still needs stays: on both stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.history import MetricHistory
from services.history.comparison import Comparison
from services.history.series import Window
from services.log_entry import decode_frame
from services.retention import Retention, Rules
from services.retention import keeper as keeping
from services.storage.database import Database
from services.storage.tables import log_entries, metric_buckets, metric_points
from services.task_state import TaskState
from tests.service_process import REPOSITORY
from tests.services.builders import line, task_state, turn

LONG_AGO = datetime.now(UTC) - timedelta(days=40)
LOSSES = [0.9, 0.4, 0.1, 0.7, 0.3]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PAUSE_S", 0.0)


@pytest.fixture
def base(database: Database) -> Iterator[BaseService]:
    service = BaseService(database)
    yield service
    service.close()


def fill(base: BaseService, task_id: str, *, at: datetime = LONG_AGO, ends: bool = True, lines: int = 2000) -> None:
    """A task with many lines, of which five have a loss. Its last number is that of the last line."""
    base.create_log_queue(task_id, task_state(task_id))
    queue = base.log_queues[task_id]
    queue.put(turn(TaskStatus.RUNNING, task_id))
    for number in range(lines):
        index, rest = divmod(number, lines // len(LOSSES))
        metrics = None if rest or index >= len(LOSSES) else {"epoch": index + 1, "val_loss": LOSSES[index]}
        queue.put(line(f"line {number}", task_id, metrics=metrics, timestamp=at))
    if ends:
        queue.put(turn(TaskStatus.COMPLETED, task_id))
    base.flush_log(task_id)
    if ends:
        with base.database.engine.begin() as connection:
            connection.execute(text("UPDATE tasks SET updated_at = :at WHERE task_id = :id"), {"at": at, "id": task_id})


def keeper(base: BaseService, days: float | None = 30, checkpoints: int | None = None) -> Retention:
    return Retention(base, Rules(days, checkpoints), ())


def messages(base: BaseService, task_id: str) -> list[str]:
    return [entry.message for entry in base.store.read_entries(task_id)]


def state_of(base: BaseService, task_id: str) -> TaskState:
    return base.get_task(task_id)


def compared(base: BaseService, task_id: str) -> Any:
    history = MetricHistory(base.series, base.ask_for_buckets)
    state = base.get_task(task_id)
    series = Comparison(history).series([state], ["val_loss"], "epoch", Window())
    (row,) = Comparison(history).table([state], series)
    return row.standings[task_id]


class TestLines:
    def test_old_lines_go_and_best_and_last_values_stay_with_their_lines(self, base: BaseService) -> None:
        fill(base, "t")
        before, was = compared(base, "t"), base.get_task("t")

        removed = keeper(base).run_once()

        assert messages(base, "t") == ["line 0", "line 800", "line 1600", "now completed"]
        assert compared(base, "t") == before
        state = state_of(base, "t")
        assert (state.latest_metrics, state.history, state.last_seq) == (was.latest_metrics, was.history, was.last_seq)
        assert state.removed_until == state.last_seq - 1
        assert (removed.tasks, removed.lines, removed.points) == (1, 2002 - 4, 2)

    def test_a_second_time_there_is_nothing_to_do(self, base: BaseService) -> None:
        fill(base, "t")
        keeper(base).run_once()
        again = keeper(base).run_once()
        assert (again.tasks, again.lines) == (0, 0)

    @pytest.mark.parametrize("what", ["young", "running", "kept for good"])
    def test_other_tasks_are_left_alone(self, base: BaseService, what: str) -> None:
        fill(base, "t", at=datetime.now(UTC) if what == "young" else LONG_AGO, ends=what != "running", lines=50)
        before = messages(base, "t")
        keeper(base, days=None if what == "kept for good" else 30).run_once()
        assert messages(base, "t") == before
        assert state_of(base, "t").removed_until is None

    def test_a_task_that_goes_on_meanwhile_is_left_alone(self, base: BaseService) -> None:
        """It was resumed, and the store does not know yet."""
        fill(base, "t", lines=50)
        before = messages(base, "t")
        base.adopt(base.get_task("t"))
        keeper(base).run_once()
        assert messages(base, "t") == before

    def test_what_is_cut_short_is_taken_up_where_it_was(
        self, base: BaseService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(base, "t")
        best = compared(base, "t").best
        first = keeper(base)
        write, parts = base.write, iter(range(3))

        def power_cut(statements: Any) -> Any:
            if next(parts, None) is None:
                raise TimeoutError
            return write(statements)

        with monkeypatch.context() as patch:
            patch.setattr(base, "write", power_cut)
            with pytest.raises(TimeoutError):
                first.run_once()
        assert state_of(base, "t").removed_until == 2 * keeping.PART_LINES
        keeper(base).run_once()
        assert messages(base, "t") == ["line 0", "line 800", "line 1600", "now completed"]
        assert compared(base, "t").best == best

    def test_what_a_later_attempt_has_done_again_does_not_become_the_best(self, base: BaseService) -> None:
        """The first attempt had a better epoch 3, which the second one has trained anew, to a worse value."""
        base.create_log_queue("t", task_state())
        queue = base.log_queues["t"]
        queue.put(turn(TaskStatus.RUNNING))
        for epoch, loss in ((1, 0.9), (2, 0.5), (3, 0.1)):
            queue.put(line(f"first {epoch}", metrics={"epoch": epoch, "val_loss": loss}))
        queue.put(turn(TaskStatus.QUEUED, reason="interrupted", attempt=2))
        queue.put(turn(TaskStatus.RUNNING))
        for epoch, loss in ((3, 0.4), (4, 0.6)):
            queue.put(line(f"second {epoch}", metrics={"epoch": epoch, "val_loss": loss}))
        queue.put(turn(TaskStatus.COMPLETED))
        base.flush_log("t")
        before = compared(base, "t")
        assert before.best == 0.4
        keeper(base, days=0).run_once()
        assert compared(base, "t") == before
        assert "first 3" not in messages(base, "t")

    def test_buckets_of_removed_points_go_too(self, base: BaseService) -> None:
        base.create_log_queue("t", task_state())
        queue = base.log_queues["t"]
        queue.put(turn(TaskStatus.RUNNING))
        for number in range(1000):
            queue.put(line(f"{number}", metrics={"train_loss": number / 7 % 1}))
        queue.put(turn(TaskStatus.COMPLETED))
        base.flush_log("t")
        count = select(func.count()).select_from(metric_buckets)
        with base.database.engine.connect() as connection:
            assert connection.scalar(count)
        keeper(base, days=0).run_once()
        with base.database.engine.connect() as connection:
            assert connection.scalar(count) == 0
            points = select(func.count()).select_from(metric_points)
            assert connection.scalar(points) == len(messages(base, "t")) - 1 <= 4

    def test_numbers_are_never_used_again(self, base: BaseService) -> None:
        fill(base, "t", lines=50)
        with base.database.engine.connect() as connection:
            last_row = connection.scalar(select(func.max(log_entries.c.id)))
        keeper(base).run_once()
        fill(base, "next", lines=5)
        first = base.store.read_entries("next")[0]
        with base.database.engine.connect() as connection:
            row = connection.scalar(select(log_entries.c.id).where(log_entries.c.task_id == "next").limit(1))
        assert last_row is not None
        assert row is not None
        assert (first.seq, row) == (1, last_row + 1)


class TestViewers:
    async def test_one_who_asks_from_before_the_removed_lines_gets_what_is_left(self, base: BaseService) -> None:
        fill(base, "t")
        keeper(base).run_once()
        last = base.get_task("t").last_seq
        for after, expected in ((0, 4), (900, 2), (last - 1, 1), (last, 0)):
            chunks = [chunk async for chunk in base.stream_logs("t", after)]
            frames = [part for part in b"".join(chunks).split(b"\r\n\r\n") if part]
            assert len(frames) == expected
            if frames:
                assert frames[-1].startswith(b"id: %d\r\n" % last)
                assert decode_frame(frames[-1])["status"] == "completed"

    async def test_a_task_that_was_resumed_is_followed_over_what_is_gone(self, base: BaseService) -> None:
        fill(base, "t", lines=1000)
        with base.database.engine.begin() as connection:
            connection.execute(text("UPDATE tasks SET status = 'failed'"))
        keeper(base).run_once()
        base.adopt(base.get_task("t"))
        queue = base.log_queues["t"]
        queue.put(turn(TaskStatus.QUEUED, reason="resumed", attempt=2))
        queue.put(turn(TaskStatus.RUNNING))
        queue.put(line("again"))
        queue.put(turn(TaskStatus.COMPLETED))
        base.flush_log("t")
        frames = b"".join([chunk async for chunk in base.stream_logs("t")]).split(b"\r\n\r\n")[:-1]
        numbers = [int(frame[4 : frame.index(b"\r")]) for frame in frames]
        assert numbers == sorted(set(numbers))
        assert numbers[-4:] == list(range(numbers[-1] - 3, numbers[-1] + 1))
        assert len(numbers) == 8


class TestRoom:
    def test_a_new_sqlite_store_gives_room_back(
        self, base: BaseService, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeping, "FEW_PAGES", 16)
        fill(base, "t", lines=20_000)
        if not database.is_sqlite:  # PostgreSQL does that by itself (autovacuum)
            assert keeper(base).run_once().store_bytes == 0
            return
        with database.engine.connect() as connection:
            before = connection.scalar(text("PRAGMA page_count")) or 0
        removed = keeper(base).run_once()
        with database.engine.connect() as connection:
            after = connection.scalar(text("PRAGMA page_count")) or 0
            assert after < before / 3
            assert (before - after) * (connection.scalar(text("PRAGMA page_size")) or 0) == removed.store_bytes
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
        fill(base, "next", lines=5)
        assert database.sqlite_path.stat().st_size < 1.1 * after * 4096 + 100_000


class TestDryRun:
    def dry_run(self, database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
        url = database.url.render_as_string(hide_password=False)
        command = [sys.executable, "-m", "services.retention", *arguments, "--store", url]
        env = {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=60)

    def test_it_says_what_would_go_and_changes_nothing(self, base: BaseService, database: Database) -> None:
        fill(base, "t")
        before = messages(base, "t")
        done = self.dry_run(database, "--dry-run", "--keep-lines-days", "30")
        assert done.returncode == 0, done.stderr
        first, last = done.stdout.splitlines()
        assert first == "t: 1,998 lines and 2 points would go, 3 would stay"
        assert last.startswith("In all 1,998 lines, 2 points and 0 bytes")
        assert messages(base, "t") == before
        removed = keeper(base).run_once()
        assert (removed.lines, removed.points) == (1998, 2)

    def test_without_rules_nothing_would_go(self, base: BaseService, database: Database) -> None:
        fill(base, "t", lines=5)
        done = self.dry_run(database, "--dry-run")
        assert "nothing would go" in done.stdout

    def test_it_does_nothing_else(self, database: Database) -> None:
        assert self.dry_run(database).returncode == 2

    def test_a_store_that_is_not_there_is_told_in_a_sentence(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "services.retention", "--dry-run", "--store", f"sqlite:///{tmp_path}/none.db"]
        done = subprocess.run(command, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=60)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert not (tmp_path / "none.db").exists()
