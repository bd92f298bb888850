"""The extremes of long series, kept by the writer."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from models.schemas import LogReading, MetricDefinition, TaskStatus
from services.base_service import BaseService
from services.executors.base import Run
from services.history.series import LAST_LINE
from services.storage.buckets import BUCKET, SEAL_AFTER, SERIES_AT_ONCE, Unsealed, _buckets, _Point
from services.storage.database import Database
from services.storage.series import Bucket
from services.storage.tables import metric_buckets
from services.training_service import TrainingService
from tests.scripted_executor import ScriptedExecutor
from tests.services.builders import line, task_state, turn
from tests.services.following import TIMEOUT_S, wait_for_end
from tests.services.trainings import SHOULD_STOP, START

VALUES = st.none() | st.floats(-1e9, 1e9)


def buckets(base: BaseService, name: str = "val_loss", task_id: str = "t") -> list[Bucket]:
    return base.series.buckets(task_id, name, 0, LAST_LINE)


def say(base: BaseService, count: int, *, first: int = 0, attempt: int = 0) -> None:
    queue = base.log_queues["t"]
    for number in range(first, first + count):
        queue.put(line(metrics={"epoch": number, "val_loss": float(number)}, attempt=attempt))
    base._writer.flush(TIMEOUT_S)


@pytest.fixture
def live(base: BaseService) -> BaseService:
    base.create_log_queue("t", task_state(status=TaskStatus.RUNNING))
    return base


@given(st.lists(st.tuples(st.integers(1, 3), VALUES), max_size=400))
def test_they_tell_of_each_run_where_its_extremes_are(said: list[tuple[int, float | None]]) -> None:
    attempts = sorted(attempt for attempt, _ in said)
    points = [
        _Point(seq, attempt, float(seq), value)
        for seq, (attempt, (_, value)) in enumerate(zip(attempts, said, strict=True), start=1)
    ]
    rest = {point.seq: point for point in points}
    for row in _buckets("t", "loss", points):
        run = [rest.pop(seq) for seq in range(row["first_seq"], row["last_seq"] + 1)]
        assert len(run) == row["points"] <= BUCKET
        assert {point.attempt for point in run} == {row["attempt"]}
        finite = [point.value for point in run if point.value is not None]
        assert (row["min_value"], row["max_value"]) == (min(finite, default=None), max(finite, default=None))
        for which in ("min", "max"):
            assert row[f"{which}_seq"] == next(
                (point.seq for point in run if finite and point.value == row[f"{which}_value"]), None
            )
        assert row["null_seq"] == next((point.seq for point in run if point.value is None), None)
        assert (row["epoch_min"], row["epoch_max"]) == (run[0].epoch, run[-1].epoch)
    assert len(rest) < BUCKET, "what has none may still be added to"
    assert sorted(rest) == list(range(len(points) - len(rest) + 1, len(points) + 1))


def test_the_writer_makes_them_when_a_series_has_become_long(live: BaseService) -> None:
    say(live, SEAL_AFTER - 1)
    assert not buckets(live)
    say(live, 1, first=SEAL_AFTER - 1)
    found = buckets(live)
    assert len(found) == SEAL_AFTER // BUCKET
    assert found[-1].last_seq == SEAL_AFTER
    assert [bucket.max_value for bucket in found] == [BUCKET * (number + 1) - 1.0 for number in range(len(found))]


def test_of_many_series_a_few_are_sealed_at_a_time(live: BaseService, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tasks wait for the writer, and a task may have thousands of series."""
    sealed: list[list[str]] = []
    monkeypatch.setattr("services.storage.writer.seal", lambda _connection, _task_id, names: sealed.append(names))
    names = [f"class{number}" for number in range(3 * SERIES_AT_ONCE)]
    for _ in range(2 * BUCKET):
        live.log_queues["t"].put(line(metrics={**dict.fromkeys(names, 0.5), "rare": None}))
    for _ in range(4):
        live._writer.flush(TIMEOUT_S)
        say(live, 1)
    assert all(len(each) <= SERIES_AT_ONCE for each in sealed)
    assert sorted(name for each in sealed for name in each) == sorted([*names, "rare"])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(1, 3000)), max_size=30))
def test_a_series_with_a_bucket_to_make_is_due_once_its_task_has_many_points(
    said: list[tuple[str, int, int]],
) -> None:
    unsealed, points, since = Unsealed(), Counter[tuple[str, int]](), Counter[str]()
    for task_id, series, count in said:
        unsealed.add(task_id, [str(series)] * count)
        points[task_id, series] += count
        since[task_id] += count
        due = unsealed.due(task_id, is_over=False)
        long = {series for (of, series), count in points.items() if of == task_id and count >= BUCKET}
        assert sorted(due) == sorted(map(str, long if since[task_id] >= SEAL_AFTER else ()))
        if since[task_id] >= SEAL_AFTER:
            since[task_id] = 0
        for name in due:
            del points[task_id, int(name)]


def test_they_go_on_where_they_were_in_the_next_service(live: BaseService, database: Database) -> None:
    say(live, SEAL_AFTER + 10)
    live.close()
    again = BaseService(Database(database.url))
    try:
        state = again.store.get_task("t")
        assert state is not None
        again.adopt(state)
        say(again, SEAL_AFTER, first=SEAL_AFTER + 10)
        found = buckets(again)
        assert sum(bucket.points for bucket in found) == 2 * SEAL_AFTER
        assert [bucket.first_seq for bucket in found[1:]] == [bucket.last_seq + 1 for bucket in found[:-1]]
    finally:
        again.close()


def test_an_attempt_begins_a_new_one(live: BaseService) -> None:
    say(live, 10)
    live.log_queues["t"].put(turn(TaskStatus.QUEUED, reason="interrupted", attempt=2))
    say(live, SEAL_AFTER, attempt=2)
    assert [(bucket.points, bucket.attempt) for bucket in buckets(live)][:2] == [(10, 1), (BUCKET, 2)]


def test_a_deleted_task_leaves_none(live: BaseService, database: Database) -> None:
    say(live, SEAL_AFTER)
    live.log_queues["t"].put(turn(TaskStatus.COMPLETED))
    live._writer.flush(TIMEOUT_S)
    live.delete_task("t")
    with database.engine.connect() as connection:
        assert connection.execute(select(metric_buckets)).all() == []


def test_who_misses_them_can_have_them_made(live: BaseService) -> None:
    say(live, 3 * BUCKET)
    assert not buckets(live)
    live.ask_for_buckets("t", ["val_loss", "unknown"])
    live._writer.flush(TIMEOUT_S)
    assert len(buckets(live)) == 3


def test_another_reading_replaces_them(service: TrainingService, start: START, executor: ScriptedExecutor) -> None:
    def trainer(_run: Run, logger: logging.Logger, _stop: SHOULD_STOP) -> None:
        for number in range(SEAL_AFTER + 1):
            logger.info("val_loss: %d, Below: %d", number, -number)

    executor.script = trainer
    task_id = wait_for_end(service, start().task_id).task_id
    before = buckets(service, task_id=task_id)
    assert before
    below = MetricDefinition(name="val_loss", regex="Below: (-?[0-9]+)")
    service.reparse(task_id, LogReading(metric_definitions=[below], log_format="none"))
    after = buckets(service, task_id=task_id)
    assert len(after) == SEAL_AFTER // BUCKET
    assert [(bucket.min_value, bucket.min_seq) for bucket in after[: len(before)]] == [
        (-(bucket.max_value or 0.0), bucket.max_seq) for bucket in before
    ]
