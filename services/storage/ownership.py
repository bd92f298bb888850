"""Who owns a PostgreSQL store: one row, with an epoch that only grows and a deadline by the server's clock.

That two services never write at once rests on the epoch and the locks of that row alone, not on any clock:

- whoever writes begins each transaction by looking at the epoch, and holds `FOR KEY SHARE` on the row to its end;
- whoever takes the store over raises the epoch under `FOR UPDATE`, which waits for such transactions to end;
- whoever only moves the deadline does so by a plain `UPDATE`, which goes past `FOR KEY SHARE`.

(PostgreSQL documentation, 13.3.2 Row-Level Locks.) So every commit of an epoch comes before every one of the next. The
deadline says merely when somebody else may try: a service that is stopped, or cut off, lets it pass.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from services.errors import OwnershipLost
from services.executors.supervisor import Process, boot_id, is_alive, read_status

CHANNEL: Final = "training_service"
"""Of the notifications that wake replicas. They carry nothing: what there is to see is in the tables."""

_LOOK = text(
    "SELECT epoch, process, address, runs, backend, "
    "COALESCE(EXTRACT(EPOCH FROM expires_at - clock_timestamp()), 0)::float8, expires_at IS NULL "
    "FROM ownership WHERE id = 1"
)
_LOOK_ALONE = text(f"{_LOOK.text} FOR UPDATE")
_FENCE = text("SELECT epoch, pg_notify(:channel, '') FROM ownership WHERE id = 1 FOR KEY SHARE")
_NEW = text(
    "INSERT INTO ownership (id, epoch, process, address, runs, backend, expires_at) "
    "VALUES (1, :epoch, :process, :address, :runs, pg_backend_pid(), clock_timestamp() + make_interval(secs => :s)) "
    "ON CONFLICT (id) DO UPDATE SET epoch = EXCLUDED.epoch, process = EXCLUDED.process, address = EXCLUDED.address, "
    "backend = EXCLUDED.backend, expires_at = EXCLUDED.expires_at WHERE ownership.epoch < EXCLUDED.epoch"
)
_RENEW = text(
    "UPDATE ownership SET expires_at = clock_timestamp() + make_interval(secs => :s) WHERE id = 1 AND epoch = :epoch"
)
_REBIND = text("UPDATE ownership SET backend = pg_backend_pid() WHERE id = 1 AND epoch = :epoch")
_RELEASE = text("UPDATE ownership SET expires_at = NULL WHERE id = 1 AND epoch = :epoch")
_SETTLE = text("UPDATE ownership SET runs = :runs WHERE id = 1 AND epoch = :epoch")
_END_WRITER = text(
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE pid = :backend AND relation = 'ownership'::regclass "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@dataclass(frozen=True, slots=True)
class Holder:
    """What the row says at one look.

    Attributes:
        runs: where the processes are whose tasks it has taken up: machine and folder.
        backend: the server's number of the session that writes.
        remaining_s: until the deadline; it has passed at 0.
        is_released: it has given the store up.
    """

    epoch: int
    process: str
    address: str
    runs: str
    backend: int
    remaining_s: float
    is_released: bool

    def is_same_as(self, terms: Terms) -> bool:
        """Whether it is of this service: workers of one server have one address."""
        is_here = self.process.startswith(f"{_machine()} ") and not self.is_gone
        return is_here and bool(self.address) and self.address == terms.address

    @property
    def is_gone(self) -> bool:
        """It is certain that it will not write again: nobody need wait for the deadline."""
        return self.is_released or _has_ended(self.process)


@dataclass(frozen=True, slots=True)
class Terms:
    """How this service owns a store.

    Attributes:
        lease_s: from a renewal to the deadline.
        address: where other services send those who want to change something.
    """

    lease_s: float = 15.0
    address: str = ""

    @property
    def renew_s(self) -> float:
        return self.lease_s / 3

    @property
    def patience_ms(self) -> int:
        """How long a takeover waits for a transaction of its predecessor before the server is asked to end that."""
        return int(min(1.0, self.renew_s) * 1000)


class Ownership:
    """One epoch, held by this process. Its methods may be called by any thread, each on a connection of its own."""

    def __init__(self, engine: Engine, terms: Terms, epoch: int, *, runs_before: str, valid_until: float) -> None:
        self._engine = engine
        self._terms = terms
        self._valid_until = valid_until
        self.epoch = epoch
        self.runs_before = runs_before
        self.is_lost = False

    @property
    def is_fresh(self) -> bool:
        """Whether nobody else can own the store yet: renewed for long enough, by this process's own clock."""
        return not self.is_lost and time.monotonic() < self._valid_until

    def renew(self) -> bool:
        """Move the deadline; `False` where it is too late. It is not too late as long as nobody has taken over."""
        asked = time.monotonic()
        with self._engine.begin() as connection:
            held = connection.execute(_RENEW, {"s": self._terms.lease_s, "epoch": self.epoch}).rowcount == 1
        if held:
            self._valid_until = asked + self._terms.lease_s
        else:
            self.is_lost = True
        return held

    def bind(self, connection: Connection) -> None:
        """Have the row say that this session writes.

        Raises:
            OwnershipLost: somebody else owns the store.
        """
        with connection.begin():
            if connection.execute(_REBIND, {"epoch": self.epoch}).rowcount != 1:
                self.is_lost = True
                raise OwnershipLost

    def fence(self, connection: Connection) -> None:
        """Begin a transaction that writes. Replicas are woken when it is committed.

        Raises:
            OwnershipLost: somebody else owns the store.
        """
        if self.is_lost or connection.execute(_FENCE, {"channel": CHANNEL}).one()[0] != self.epoch:
            self.is_lost = True
            raise OwnershipLost

    def settle(self, runs: str) -> None:
        """Note where the processes of the running tasks are, once all that others have left is taken up."""
        with self._engine.begin() as connection:
            connection.execute(_SETTLE, {"runs": runs, "epoch": self.epoch})

    def release(self) -> None:
        """Let another one own the store at once."""
        with self._engine.begin() as connection:
            connection.execute(_RELEASE, {"epoch": self.epoch})


def look(connection: Connection) -> Holder | None:
    """The owner, present or last; `None` where there was never one. Waits for nobody."""
    row = connection.execute(_LOOK).one_or_none()
    return None if row is None else Holder(*row)


def take(connection: Connection, engine: Engine, terms: Terms, seen: Holder | None) -> Ownership | None:
    """Become the owner, if that is possible. What is written on `connection` from then on is this process's.

    Args:
        connection: outside a transaction.
        seen: what a look has shown; where the row says something else by now, somebody was quicker.
    """
    for _ in range(2):
        valid_until = time.monotonic() + terms.lease_s
        try:
            with connection.begin():
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {terms.patience_ms}")
                row = connection.execute(_LOOK_ALONE).one_or_none()
                now = None if row is None else Holder(*row)
                if (now and now.epoch) != (seen and seen.epoch) or not may_take(now):
                    return None
                epoch = 1 if now is None else now.epoch + 1
                values = {"epoch": epoch, "process": this_process(), "address": terms.address, "s": terms.lease_s}
                if connection.execute(_NEW, {**values, "runs": ""}).rowcount != 1:
                    return None
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE or seen is None:
                raise
            with connection.begin():  # it was stopped, or cut off, in the middle of a transaction
                if may_take(look(connection)):
                    connection.execute(_END_WRITER, {"backend": seen.backend})
            continue
        return Ownership(engine, terms, epoch, runs_before=now.runs if now else "", valid_until=valid_until)
    return None


_LOCK_NOT_AVAILABLE = "55P03"


def may_take(holder: Holder | None) -> bool:
    return holder is None or holder.remaining_s <= 0 or holder.is_gone


@cache
def _machine() -> str:
    """Where a process number means the same process: one kernel since one start of it, one namespace."""
    return f"{boot_id()}/{Path('/proc/self/ns/pid').readlink()}"


def this_process() -> str:
    status = read_status(os.getpid())
    assert status is not None
    return f"{_machine()} {status.process.pid} {status.process.started}"


def _has_ended(process: str) -> bool:
    """Whether a process is known to be no more; of one on another machine nothing is known."""
    machine, _, rest = process.partition(" ")
    try:
        return machine == _machine() and not is_alive(Process(*map(int, rest.split())))
    except OSError:  # there is no descriptor left to ask with
        return False
