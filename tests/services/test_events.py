"""One order of everything, whoever reads it from wherever."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.schemas import LogReading, TaskStatus
from services.base_service import BaseService
from services.events import EVENT_TYPES, Cursor, EventLog
from services.storage.database import Database
from services.storage.events import EventStore
from services.storage.operations import Committed
from services.training_service import TrainingService
from tests.services.builders import line, task_state, turn
from tests.services.following import TIMEOUT_S, wait_for_end
from tests.services.trainings import START


def parse(stream: bytes) -> list[ServerSentEvent]:
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, content=stream)
    return list(EventSource(response).iter_sse())


async def read(
    base: BaseService,
    after: Cursor | None,
    count: int,
    task_ids: Collection[str] = (),
    types: Collection[str] = EVENT_TYPES,
    then: Iterable[Any] = (),
) -> list[ServerSentEvent]:
    """The first events behind a cursor. `then` is done, one by one, each time there is nothing more to read."""
    found: list[ServerSentEvent] = []
    doing = iter(then)
    stream = base.events.follow(after, task_ids, types)
    async with asyncio.timeout(TIMEOUT_S), aclosing(stream):
        while len(found) < count:
            chunk = asyncio.ensure_future(anext(stream))
            done, _ = await asyncio.wait({chunk}, timeout=0.05)
            while not done:
                for action in doing:
                    await asyncio.to_thread(action)
                    break
                done, _ = await asyncio.wait({chunk}, timeout=0.05)
            found += [event for event in parse(chunk.result()) if event.data]
    return found


def told(events: Iterable[ServerSentEvent]) -> list[tuple[str, str]]:
    """Types, and what each is about."""
    found = []
    for event in events:
        data = event.json()
        found.append((event.event, data.get("message") or ("deleted" if data.get("deleted") else f"{data}")))
    return found


@pytest.fixture
def two(base: BaseService) -> BaseService:
    for task_id in ("a", "b"):
        base.create_log_queue(task_id, task_state(task_id, status=TaskStatus.RUNNING))
    return base


def say(base: BaseService, task_id: str, message: str, **changes: Any) -> None:
    base.log_queues[task_id].put(line(message, task_id, **changes))
    base._writer.flush(TIMEOUT_S)


def test_each_line_is_one_event_of_the_type_that_fits_best(two: BaseService) -> None:
    start = two.events.end
    say(two, "a", "hello")
    say(two, "b", "loss", metrics={"loss": 0.5})
    two.log_queues["a"].put(turn(TaskStatus.COMPLETED, "a"))
    two._writer.flush(TIMEOUT_S)
    events = asyncio.run(read(two, start, 3))
    assert told(events) == [("log", "hello"), ("metric", "loss"), ("status", "now completed")]
    assert [(event.json()["task_id"], event.json()["id"]) for event in events] == [("a", 1), ("b", 1), ("a", 2)]
    assert events[1].json()["metrics"] == {"loss": 0.5}
    assert (events[2].json()["status"], events[2].json()["reason"]) == ("completed", "finished")


def test_without_a_cursor_it_begins_now(two: BaseService) -> None:
    say(two, "a", "before")
    events = asyncio.run(read(two, None, 1, then=[lambda: say(two, "a", "after")]))
    assert told(events) == [("log", "after")]


def test_who_follows_live_and_who_comes_later_get_the_same_bytes(two: BaseService) -> None:
    start = two.events.end

    def live() -> None:
        say(two, "a", "one")
        say(two, "b", "two", metrics={"x": 1})
        two.log_queues["a"].put(turn(TaskStatus.COMPLETED, "a"))
        two._writer.flush(TIMEOUT_S)
        two.delete_task("a")
        say(two, "b", "three")

    followed = asyncio.run(read(two, start, 5, then=[live]))
    assert [(event.event, event.json()["task_id"]) for event in followed] == [
        ("log", "a"),
        ("metric", "b"),
        ("status", "a"),
        ("status", "a"),
        ("log", "b"),
    ]
    later = asyncio.run(read(two, start, 3))
    kept = [event for event in followed if event.json()["task_id"] == "b" or event.json().get("deleted")]
    assert [(event.id, event.event, event.data) for event in later] == [
        (event.id, event.event, event.data) for event in kept
    ]


def test_chosen_tasks_and_types_only(two: BaseService) -> None:
    start = two.events.end
    say(two, "a", "one", metrics={"x": 1})
    say(two, "b", "two", metrics={"x": 1})
    say(two, "b", "three")
    assert told(asyncio.run(read(two, start, 2, ["b"]))) == [("metric", "two"), ("log", "three")]
    assert told(asyncio.run(read(two, start, 2, (), ["metric"]))) == [("metric", "one"), ("metric", "two")]


def test_what_is_not_wanted_still_moves_the_viewer_on(two: BaseService) -> None:
    start = two.events.end
    say(two, "a", "one")

    async def first() -> bytes:
        stream = two.events.follow(start, (), ["alert"])
        async with asyncio.timeout(TIMEOUT_S), aclosing(stream):
            return await anext(stream)

    assert asyncio.run(first()) == f"id: {two.events.end}\r\n\r\n".encode()


def test_a_cursor_from_elsewhere_is_told_that_it_is_void(two: BaseService) -> None:
    say(two, "a", "one")
    (event,) = asyncio.run(read(two, Cursor(10**9, 0), 1))
    assert (event.event, event.json(), event.id) == ("reset", {}, str(two.events.end))


def test_a_cursor_outlives_the_service_and_the_tasks_that_it_came_from(two: BaseService, database: Database) -> None:
    start = two.events.end
    say(two, "a", "one")
    two.log_queues["a"].put(turn(TaskStatus.COMPLETED, "a"))
    two._writer.flush(TIMEOUT_S)
    (*_, seen) = asyncio.run(read(two, start, 2))
    two.delete_task("a")
    two.close()
    again = BaseService(Database(database.url))
    try:
        assert again.events.end == Cursor(2, 1)
        state = again.store.get_task("b")
        assert state is not None
        again.adopt(state)
        say(again, "b", "two")
        events = asyncio.run(read(again, Cursor.parse(seen.id), 2))
        assert told(events) == [("status", "deleted"), ("log", "two")]
        assert events[-1].id == "3.1"
    finally:
        again.close()


def test_a_task_that_was_read_again_says_so(service: TrainingService, start: START) -> None:
    task_id = wait_for_end(service, start().task_id).task_id
    service._writer.flush(TIMEOUT_S)
    before = service.events.end
    service.reparse(task_id, LogReading(log_format="none"))
    (event,) = asyncio.run(read(service, before, 1))
    assert (event.event, event.json()) == ("reset", {"task_id": task_id, "revision": 1})
    assert service.get_task(task_id).revision == 1


def test_a_commit_whose_answer_was_lost_is_read_from_the_store(two: BaseService) -> None:
    """The number of its rows is then not known."""

    publish = two.events.publish

    def forget_rows(task: Committed) -> None:
        task.first_row = 0
        publish(task)

    def lose() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(two.events, "publish", forget_rows)
            say(two, "a", "lost")
        say(two, "a", "after")

    start = two.events.end
    assert told(asyncio.run(read(two, start, 2, then=[lose]))) == [("log", "lost"), ("log", "after")]


def test_one_that_has_fallen_behind_the_ring_loses_nothing(two: BaseService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.events.RING_EVENTS", 5)
    start = two.events.end

    async def slow() -> list[ServerSentEvent]:
        stream = two.events.follow(start)
        async with asyncio.timeout(TIMEOUT_S), aclosing(stream):
            await asyncio.to_thread(say, two, "a", "0")
            found = parse(await anext(stream))
            for number in range(1, 40):
                await asyncio.to_thread(say, two, "a", str(number))
            while len(found) < 40:
                found += parse(await anext(stream))
        return found

    assert [event.json()["message"] for event in asyncio.run(slow())] == [str(number) for number in range(40)]


ACTION = st.sampled_from(["a", "b", "delete", "many"])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTION, min_size=1, max_size=12), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_cut_anywhere_and_resumed_every_event_comes_once_and_in_order(
    base: BaseService, monkeypatch: pytest.MonkeyPatch, actions: list[str], cuts: list[int]
) -> None:
    monkeypatch.setattr("services.events.PAGE", 7)
    start = base.events.end
    ended = 0
    for number, action in enumerate(actions):
        for task_id in ("a", "b"):
            if task_id not in base.log_queues:
                base.create_log_queue(task_id, task_state(task_id, status=TaskStatus.RUNNING))
        if action == "delete":
            base.log_queues["a"].put(turn(TaskStatus.COMPLETED, "a"))
            base._writer.flush(TIMEOUT_S)
            base.delete_task("a")
            ended += 1
        else:
            for _ in range(10 if action == "many" else 1):
                say(base, "b" if action == "many" else action, str(number))
    whole = _all(base, start)
    ids = [event.id for event in whole]
    assert len(set(ids)) == len(ids)
    assert [sum(Cursor.parse(each) or ()) for each in ids] == sorted(sum(Cursor.parse(each) or ()) for each in ids)
    for cut in cuts:
        index = cut % (len(whole) + 1)
        after = start if index == 0 else Cursor.parse(ids[index - 1])
        assert [event.id for event in _all(base, after)] == ids[index:]


def _all(base: BaseService, after: Cursor | None) -> list[ServerSentEvent]:
    """What the store has, to its end."""
    log = EventLog(EventStore(base._database))
    found, cursor = [], after or Cursor()
    while cursor != log.end:
        events, cursor = log._read_store(cursor, log.end, ())
        found += parse(b"".join(event.frame for event in events))
    return found


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_cursor_is_read_as_it_was_written(row: int, notice: int) -> None:
    assert Cursor.parse(str(Cursor(row, notice))) == Cursor(row, notice)


@given(st.text(max_size=30))
def test_what_is_no_cursor_is_none(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or all(part.isdigit() for part in text.split(".", 1))
