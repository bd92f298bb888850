"""Two services never write to one PostgreSQL store at once, whatever stops, kills or delays them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from services.errors import OwnershipLost, StoreInUse
from services.storage.database import Database
from services.storage.ownership import Terms
from tests.running_postgres import RunningPostgres
from tests.stores import PostgresStore, execute

LEASE_S = 1.0
LAPSE = "UPDATE ownership SET expires_at = clock_timestamp() - interval '1 second'"


@pytest.fixture
def store(postgres: RunningPostgres) -> PostgresStore:
    return PostgresStore(postgres)


def opened(store: PostgresStore, lease_s: float = 60) -> Database:
    return Database(store.url, terms=Terms(lease_s), may_follow=True)


def test_an_owner_is_one_for_longer_than_a_lease(store: PostgresStore) -> None:
    with closing(opened(store, LEASE_S)) as owner, closing(opened(store, LEASE_S)) as other:
        deadline = time.monotonic() + 2 * LEASE_S
        while time.monotonic() < deadline:
            assert owner.is_surely_owner
            assert not other.is_owner
            other.look()
            assert not other.take_over()
            time.sleep(0.05)


def test_who_has_closed_is_followed_at_once(store: PostgresStore) -> None:
    with closing(opened(store)) as first:
        assert first.is_owner
    with closing(opened(store)) as second:
        assert second.is_owner


def test_a_deadline_that_has_passed_is_no_loss_as_long_as_nobody_comes(store: PostgresStore) -> None:
    with closing(opened(store)) as owner:
        execute(store.url, LAPSE)
        with owner.writing() as connection:
            connection.execute(text("INSERT INTO device_limits VALUES ('cpu', 1)"))
        assert owner.ownership is not None
        assert owner.ownership.renew()
        with closing(opened(store)) as other:
            assert not other.take_over()


def test_of_many_that_find_it_free_one_gets_it(store: PostgresStore) -> None:
    with closing(opened(store)) as owner:
        others = [opened(store) for _ in range(4)]
        execute(store.url, LAPSE)
        for other in others:
            other.look()
        start = threading.Barrier(len(others))
        got: list[bool] = []

        def grasp(other: Database) -> None:
            start.wait()
            got.append(other.take_over())

        threads = [threading.Thread(target=grasp, args=(other,)) for other in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False, False, False, True]
        with pytest.raises(OwnershipLost), owner.writing():
            raise AssertionError
        for other in others:
            other.close()


def test_a_transaction_that_has_begun_ends_before_another_owns_the_store(store: PostgresStore) -> None:
    with closing(opened(store)) as owner, closing(opened(store)) as other:
        with owner.writing() as connection:
            execute(store.url, LAPSE)
            other.look()
            taking = threading.Thread(target=other.take_over)
            taking.start()
            taking.join(0.3)
            assert taking.is_alive(), "it was taken under a transaction that writes"
            connection.execute(text("INSERT INTO device_limits VALUES ('cpu', 1)"))
        taking.join(10)
        assert other.is_owner
        with other.engine.connect() as reading:
            assert reading.scalar(text("SELECT count(*) FROM device_limits")) == 1


def test_one_that_does_not_end_is_ended_by_the_server(store: PostgresStore) -> None:
    """Its process is stopped: neither does it commit, nor does its session end by itself."""
    limit = text("INSERT INTO device_limits VALUES ('cpu', 1)")
    with closing(opened(store)) as owner, closing(opened(store)) as other:
        with pytest.raises(DBAPIError), owner.writing() as connection:  # noqa: PT012
            connection.execute(limit)
            execute(store.url, LAPSE)
            other.look()
            assert other.take_over()
        with pytest.raises(OwnershipLost), owner.writing():
            pass
        with other.writing() as writing:
            assert writing.scalar(text("SELECT count(*) FROM device_limits")) == 0


def test_a_session_that_was_cut_is_opened_again_by_the_owner(store: PostgresStore) -> None:
    limit = text("INSERT INTO device_limits VALUES ('cpu', 1)")
    with closing(opened(store)) as owner:
        with store.refusing_writes():
            pass  # every connection is cut
        with pytest.raises(DBAPIError), owner.writing() as connection:
            connection.execute(limit)
        with owner.writing() as connection:
            connection.execute(limit)
        with closing(opened(store)) as other:
            assert not other.is_owner


def test_a_tool_is_refused_while_a_service_lives(store: PostgresStore) -> None:
    with closing(opened(store)), pytest.raises(StoreInUse):
        Database(store.url)


def test_another_worker_of_the_same_server_is_refused(store: PostgresStore) -> None:
    """`uvicorn --workers 2`: half of all changes would be refused by a replica at the same address."""
    terms = Terms(60, "http://127.0.0.1:8000")
    with closing(Database(store.url, terms=terms, may_follow=True)):
        with pytest.raises(StoreInUse, match="--workers"):
            Database(store.url, terms=terms, may_follow=True)
        Database(store.url, terms=Terms(60, "http://127.0.0.1:8001"), may_follow=True).close()


def test_an_owner_that_cannot_renew_is_soon_not_sure_any_more(store: PostgresStore) -> None:
    with closing(opened(store, LEASE_S)) as owner:
        assert owner.is_surely_owner
        with store.refusing_writes():
            deadline = time.monotonic() + 30
            while owner.is_surely_owner:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert owner.is_owner
        while not owner.is_surely_owner:
            assert time.monotonic() < deadline
            time.sleep(0.05)


class Holder:
    """A process of `lease_holder`, and how often it has said what."""

    def __init__(self, store: PostgresStore, lease_s: float) -> None:
        url = store.url.render_as_string(hide_password=False)
        command = [sys.executable, "-m", "tests.services.storage.lease_holder", url, str(lease_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.said: Counter[str] = Counter()
        self.is_owner = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said[line.strip()] += 1
                self.is_owner = line.strip() == "own" or (self.is_owner and line.strip() != "lost")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()
        self._reader.join()


@contextmanager
def holders(store: PostgresStore, count: int, lease_s: float) -> Iterator[list[Holder]]:
    made = [Holder(store, lease_s) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            each.end()


def wait_until_one_owns(among: list[Holder]) -> Holder:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for each in among:
            if each.is_owner:
                return each
        time.sleep(0.01)
    raise AssertionError("nobody owns the store")


PAUSES = 8


def test_however_owners_are_paused_no_old_epoch_writes_after_a_new_one(store: PostgresStore) -> None:
    """Each owner is stopped at a moment of chance until another one has taken over, and goes on then.

    The server notes when each row was committed.
    """
    Database(store.url).close()
    execute(store.url, "CREATE TABLE writes (id BIGSERIAL, epoch BIGINT)")
    chance = random.Random(7)
    with holders(store, 3, lease_s=0.4) as made:
        for _ in range(PAUSES):
            owner = wait_until_one_owns(made)
            time.sleep(chance.uniform(0, 0.1))
            owner.send(signal.SIGSTOP)
            wait_until_one_owns([each for each in made if each is not owner])
            owner.send(signal.SIGCONT)
            owner.is_owner = False
    engine = create_engine(store.url)
    with engine.connect() as connection:
        by_time = list(connection.scalars(text("SELECT epoch FROM writes ORDER BY pg_xact_commit_timestamp(xmin)")))
        last = connection.scalar(text("SELECT epoch FROM ownership"))
    engine.dispose()
    assert by_time == sorted(by_time)
    assert len(set(by_time)) >= PAUSES
    assert last is not None
    assert last >= PAUSES
    assert sum(each.said["lost"] for each in made) >= PAUSES // 2, "no paused owner came back to be refused"
