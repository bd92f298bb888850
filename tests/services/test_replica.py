"""What a read replica shows is what its owner shows: the same lines, ids and bytes, live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.schemas import LogReading, MetricDefinition, TaskStatus
from services.base_service import BaseService
from services.errors import ReadReplica
from services.events import Cursor
from services.requests import unread
from services.rereading import Rereading
from services.storage import changes
from services.storage.database import Database
from services.storage.notices import ALERT, insert_notice
from services.storage.operations import Apply, Reparse
from services.storage.ownership import Terms
from tests.running_postgres import RunningPostgres
from tests.services.builders import line, task_state, turn
from tests.services.following import TIMEOUT_S, follow, messages, says
from tests.stores import PostgresStore, execute

LISTENERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"


class Pair:
    """An owner and its replica, in one process."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.owner = BaseService(Database(store.url, terms=Terms(60, "http://owner")))
        self.replica = BaseService(Database(store.url, terms=Terms(60, "http://replica"), may_follow=True))

    def follow(self) -> None:
        assert self.replica.replica is not None
        self.replica.replica.start()

    def begin(self, *task_ids: str) -> None:
        for task_id in task_ids:
            self.owner.create_log_queue(task_id, task_state(task_id, status=TaskStatus.RUNNING))

    def say(self, task_id: str, message: str) -> None:
        self.owner.log_queues[task_id].put(line(message, task_id))

    def end(self, task_id: str) -> None:
        self.owner.log_queues[task_id].put(turn(TaskStatus.FAILED, task_id))
        self.flush()

    def flush(self) -> None:
        self.owner._writer.flush(TIMEOUT_S)

    def both(self) -> tuple[BaseService, BaseService]:
        return self.owner, self.replica

    def close(self) -> None:
        self.replica.close()
        self.owner.close()


@pytest.fixture
def pair(postgres: RunningPostgres) -> Iterator[Pair]:
    with closing(Pair(PostgresStore(postgres))) as made:
        yield made


async def log_bytes(service: BaseService, task_id: str, after: int = 0) -> bytes:
    stream = service.stream_logs(task_id, after)
    async with asyncio.timeout(TIMEOUT_S), aclosing(stream):
        return b"".join([chunk async for chunk in stream])


async def event_bytes(service: BaseService, after: Cursor, last: bytes) -> bytes:
    """Up to the event in which `last` is said."""
    seen = b""
    stream = service.events.follow(after)
    async with asyncio.timeout(TIMEOUT_S), aclosing(stream):
        async for chunk in stream:
            seen += chunk
            if last in chunk:
                break
    return seen


def test_a_line_wakes_a_viewer_of_the_replica_without_a_poll(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.replica.POLL_S", TIMEOUT_S * 2)
    pair.begin("t")
    pair.follow()

    async def seen() -> None:
        viewer = asyncio.create_task(follow(pair.replica, "t", until=says("second")))
        for message in ("first", "second"):
            await asyncio.sleep(0.1)
            pair.say("t", message)
        assert messages(await viewer) == ["first", "second"]

    asyncio.run(seen())
    assert pair.replica.replica is not None
    pair.replica.replica._closing.set()
    pair.say("t", "wakes it, so that it ends")


def test_a_notification_that_is_lost_delays_a_line_and_loses_none(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.storage.ownership.CHANNEL", "where_nobody_listens")
    monkeypatch.setattr("services.replica.POLL_S", 0.1)
    pair.begin("t")
    pair.follow()
    pair.say("t", "not notified")
    assert messages(asyncio.run(follow(pair.replica, "t", until=says("not notified")))) == ["not notified"]


def test_a_listener_that_is_cut_off_listens_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.begin("t")
    pair.follow()
    pair.say("t", "one")
    asyncio.run(follow(pair.replica, "t", until=says("one")))
    execute(pair.store.url, LISTENERS)
    pair.say("t", "two")
    asyncio.run(follow(pair.replica, "t", until=says("two")))
    pair.say("t", "three")
    assert messages(asyncio.run(follow(pair.replica, "t", until=says("three")))) == ["one", "two", "three"]


def test_both_send_the_same_bytes_live_and_later(pair: Pair) -> None:
    start = pair.owner.events.end
    pair.begin("a", "b")
    pair.follow()

    async def watched() -> tuple[list[bytes], list[bytes]]:
        logs = [asyncio.create_task(log_bytes(service, "a")) for service in pair.both()]
        events = [asyncio.create_task(event_bytes(service, start, b"the end")) for service in pair.both()]
        for number in range(50):
            pair.say("a", f"Train Loss: {number}")
            pair.say("b", f"other {number}")
            if number % 10 == 0:
                await asyncio.to_thread(pair.flush)
        alert = Apply(lambda connection: [insert_notice(connection, "a", ALERT, {"message": "fired"})])
        await asyncio.to_thread(pair.owner.apply, alert)
        await asyncio.to_thread(pair.end, "a")
        read = [await each for each in logs]  # of a task that is deleted there is no more to read
        await asyncio.to_thread(pair.owner.delete_task, "a")
        pair.say("b", "the end")
        return read, [await each for each in events]

    logs, events = asyncio.run(watched())
    assert logs[0] == logs[1]
    assert logs[0].count(b"id:") == 51
    assert _frames(events[0]) == _frames(events[1])
    later = _frames(asyncio.run(event_bytes(pair.replica, start, b"the end")))
    assert later == [frame for frame in _frames(events[1]) if b'"task_id":"a","id":' not in frame]
    assert pair.replica.alert_counts == {}


def _frames(stream: bytes) -> list[bytes]:
    """Without those that only move a viewer on."""
    return [frame for frame in stream.split(b"\r\n\r\n") if b"data:" in frame]


def test_a_viewer_of_the_owner_goes_on_at_a_replica_that_is_behind(pair: Pair) -> None:
    pair.begin("t")
    pair.say("t", "one")
    pair.flush()
    cursor = pair.owner.events.end  # the replica does not follow yet, and has nothing of this

    async def first() -> bytes:
        stream = pair.replica.events.follow(cursor)
        async with asyncio.timeout(TIMEOUT_S), aclosing(stream):
            pair.say("t", "two")
            return await anext(stream)

    pair.follow()
    assert b"two" in asyncio.run(first())


def test_a_task_that_has_just_begun_is_followed_to_its_end_by_a_replica_that_is_behind(pair: Pair) -> None:
    pair.begin("t")
    pair.say("t", "one")
    pair.flush()

    async def seen() -> bytes:
        viewer = asyncio.create_task(log_bytes(pair.replica, "t"))
        await asyncio.sleep(0.2)
        pair.follow()
        await asyncio.to_thread(pair.end, "t")
        return await viewer

    assert asyncio.run(seen()).count(b"data:") == 2


def test_a_replica_that_was_far_behind_misses_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST_LINES", 10)
    start = pair.owner.events.end
    pair.begin("t", "u")
    pair.follow()
    for number in range(200):
        pair.say("t", f"line {number}")
    pair.end("u")
    pair.end("t")
    logs = [asyncio.run(log_bytes(service, "t")) for service in pair.both()]
    assert logs[0] == logs[1]
    seen = [asyncio.run(event_bytes(service, start, b'"task_id":"t","id":201')) for service in pair.both()]
    assert _frames(seen[0]) == _frames(seen[1])
    _wait(lambda: not pair.replica.tasks and not pair.replica.log_queues)


def test_a_new_reading_of_a_log_is_shown(pair: Pair) -> None:
    pair.begin("t")
    pair.follow()
    pair.owner.log_queues["t"].put(line("dice=7", "t", parsed=True))
    pair.flush()
    reading = LogReading(metric_definitions=[MetricDefinition(name="dice", regex="dice=([0-9]+)")])
    rereading = Rereading(unread(pair.owner.get_task("t")), reading, keep=10)
    rereading.read(pair.owner.store.read_entries("t"))
    pair.owner._writer.submit(Reparse("t", rereading, rereading.parser.memory))
    pair.flush()
    _wait(lambda: "t" in pair.replica.tasks and pair.replica.tasks["t"].revision == 1)
    pair.end("t")
    logs = [asyncio.run(log_bytes(service, "t")) for service in pair.both()]
    assert logs[0] == logs[1]
    assert b'"dice":7' in logs[1]


def test_nothing_can_be_changed_at_a_replica(pair: Pair) -> None:
    pair.begin("t")
    pair.flush()
    assert pair.replica.replica is not None
    pair.replica.replica.catch_up()
    with pytest.raises(ReadReplica, match="http://owner") as refusal:
        pair.replica.add_log("t", "INFO", "mine")
    assert (refusal.value.code, refusal.value.retry_after_s) == ("read_replica", 60)
    with pytest.raises(ReadReplica):
        pair.replica.create_log_queue("u")
    assert pair.replica.get_logs("t") == []


def test_a_replica_takes_the_place_of_an_owner_that_leaves_and_its_viewers_stay(pair: Pair) -> None:
    pair.begin("t")
    pair.say("t", "of the owner")
    pair.flush()
    pair.replica.database.terms = Terms(1)  # it looks at the lease more often
    pair.follow()

    async def watched() -> list[str]:
        viewer = asyncio.create_task(follow(pair.replica, "t", until=says("now failed")))
        assert await asyncio.to_thread(pair.owner.close)
        await asyncio.to_thread(_wait, lambda: pair.replica.is_owner)
        pair.replica.adopt(pair.replica.tasks["t"])
        pair.replica.log_queues["t"].put(line("of the new owner", "t"))
        pair.replica.log_queues["t"].put(turn(TaskStatus.FAILED, "t"))
        return messages(await viewer)

    assert asyncio.run(watched()) == ["of the owner", "of the new owner", "now failed"]


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


TASKS = ("a", "b", "c")
STEPS = st.lists(st.tuples(st.sampled_from(["begin", "say", "say", "end", "delete", "look"]), st.sampled_from(TASKS)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_the_owner_does_a_replica_that_has_caught_up_shows_the_same(
    pair: Pair, steps: list[tuple[str, str]]
) -> None:
    """It looks at any moment, and is then as if it had been there from the beginning."""
    owner, replica = pair.both()
    assert replica.replica is not None
    for task_id in TASKS:
        if task_id in owner.log_queues:
            pair.end(task_id)
        if owner.store.get_task(task_id):
            owner.delete_task(task_id)
    for step, task_id in steps:
        match step:
            case "begin" if owner.store.get_task(task_id) is None:
                pair.begin(task_id)
            case "say" if task_id in owner.log_queues:
                pair.say(task_id, f"line of {task_id}")
                pair.flush()
            case "end" if task_id in owner.log_queues:
                pair.end(task_id)
            case "delete" if task_id not in owner.log_queues and owner.store.get_task(task_id):
                owner.delete_task(task_id)
            case "look":
                replica.replica.catch_up()
    replica.replica.catch_up()
    assert replica.tasks == owner.tasks
    assert replica.log_queues.keys() == owner.log_queues.keys()
    assert {key: queue.last_seq for key, queue in replica.log_queues.items()} == {
        key: queue.last_seq for key, queue in owner.log_queues.items()
    }
    assert replica.events.end == Cursor(*replica.events._store.last_event())
    for task_id, queue in replica.log_queues.items():
        page = list(replica._read_page(task_id, 0).frames)
        assert (queue.read(0) or page) == page
