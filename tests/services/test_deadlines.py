"""When tasks have stayed too long. Deadlines of tests are past, or never come, so no test waits for a clock."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue

import pytest

from services.deadlines import Deadlines

NEVER, PAST = 10_000.0, -1.0
TIMEOUT_S = 30


@pytest.fixture
def expired() -> Queue[str]:
    return Queue()


@pytest.fixture
def deadlines(expired: Queue[str]) -> Iterator[Deadlines]:
    made = Deadlines(expired.put)
    yield made
    made.close()


def test_a_task_is_told_of_once(deadlines: Deadlines, expired: Queue[str]) -> None:
    deadlines.set("a", PAST)
    assert expired.get(timeout=TIMEOUT_S) == "a"
    deadlines.set("b", PAST)
    assert expired.get(timeout=TIMEOUT_S) == "b"


def test_the_earlier_deadline_comes_first_whichever_was_set_first(deadlines: Deadlines, expired: Queue[str]) -> None:
    deadlines.set("late", NEVER)
    deadlines.set("soon", 0.01)
    assert expired.get(timeout=TIMEOUT_S) == "soon"


def test_a_deadline_that_was_cleared_or_put_off_does_not_come(deadlines: Deadlines, expired: Queue[str]) -> None:
    for task_id in ("cleared", "put off"):
        deadlines.set(task_id, 0.05)
    deadlines.clear("cleared")
    deadlines.set("put off", NEVER)
    deadlines.set("mark", 0.1)
    assert expired.get(timeout=TIMEOUT_S) == "mark"


def test_whether_a_task_is_due_can_be_asked(deadlines: Deadlines) -> None:
    deadlines.set("past", PAST)
    deadlines.set("never", NEVER)
    assert [deadlines.is_due(task_id) for task_id in ("past", "never", "unknown")] == [True, False, False]


def test_a_fault_with_one_task_is_not_the_end_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    told: Queue[str] = Queue()

    def expire(task_id: str) -> None:
        if task_id == "bad":
            raise LookupError("no such task")
        told.put(task_id)

    deadlines = Deadlines(expire)
    deadlines.set("bad", PAST)
    deadlines.set("good", PAST)
    assert told.get(timeout=TIMEOUT_S) == "good"
    deadlines.close()
    assert "Task bad has overstayed" in caplog.text


def test_deadlines_that_are_put_off_for_ever_take_no_more_and_more_memory(deadlines: Deadlines) -> None:
    for seconds in range(10_000):
        deadlines.set("a", NEVER + seconds)
    assert len(deadlines._heap) < 1000


def test_nothing_comes_after_the_end(expired: Queue[str]) -> None:
    deadlines = Deadlines(expired.put)
    deadlines.close()
    deadlines.set("a", PAST)
    assert expired.empty()
