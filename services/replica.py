"""Shows in this service what another one, the owner of a PostgreSQL store, commits; and takes its place in the end.

The owner notifies in each transaction (NOTIFY is delivered with the commit). A notification only says that there is
something to read: should one be lost, the next look, a second later, finds what it was about.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.errors import ServiceError
from services.storage.changes import Changes, ChangeStore
from services.storage.database import Database
from services.storage.ownership import CHANNEL, may_take

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""Between two looks where no notification comes."""


class Replica:
    """Has shown what there is by `catch_up`, and what comes from `start` on until this process owns the store itself.

    Args:
        show: is given what is new. Never called by two threads at once.
        known: the tasks that are shown as alive.
        promote: called once this process owns the store and everything that others have written has been shown.
    """

    def __init__(
        self,
        database: Database,
        *,
        show: Callable[[Changes], None],
        known: Callable[[], Sequence[str]],
        promote: Callable[[], None],
    ) -> None:
        self._database = database
        self._changes = ChangeStore(database)
        self._show, self._known, self._promote = show, known, promote
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._lapsed: tuple[int, float] | None = None
        self._next_look = 0.0
        self._is_over = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
        self.trouble: str | None = None

    def start(self) -> None:
        """From now on, follow."""
        owner = self._database.owner
        where = f", {owner.address}," if owner and owner.address else ""
        logger.warning("Another service%s owns the store: this one is a read replica", where)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(10)

    def catch_up(self) -> None:
        """Show all that is committed by now.

        Raises:
            StorageUnavailable: the store cannot be read.
        """
        with self._lock:
            if self._is_over:
                return
            seen = self._seen or (0, 0, 0)
            found = self._changes.read(*seen, self._known(), whole=self._seen is not None)
            if found is not None:
                self._show(found)
                self._seen = (found.row, found.notice, found.task)

    def _run(self) -> None:
        listener: psycopg.Connection | None = None
        while not self._closing.is_set():
            try:
                listener = self._wait(listener or self._listen())
            except psycopg.Error as error:
                self._note(f"Changes are not notified at present, and looked for every second: {error}")
                if listener is not None:
                    listener.close()
                listener = None
                self._closing.wait(POLL_S)
            try:
                self.catch_up()
                if listener is not None:
                    self.trouble = None
                if self._is_ours():
                    self._take_place()
                    break
            except (ServiceError, DBAPIError, PoolTimeout) as error:
                self._lapsed = None  # the owner, too, may need a moment after an outage
                self._note(str(error))
            except Exception:
                logger.exception("What the owner of the store has done cannot be shown; it is tried again")
                self._closing.wait(POLL_S)
        if listener is not None:
            listener.close()

    def _take_place(self) -> None:
        while True:  # nobody else can add to what there is any more
            try:
                self.catch_up()
                break
            except ServiceError as error:
                self._note(str(error))
                if self._closing.wait(POLL_S):
                    return
        with self._lock:
            self._is_over = True
        self._promote()

    def _note(self, trouble: str) -> None:
        trouble = " ".join(trouble.split())
        if self.trouble is None:
            logger.warning("%s", trouble)
        self.trouble = trouble

    def _listen(self) -> psycopg.Connection:
        arguments, options = self._database.engine.dialect.create_connect_args(self._database.url)
        listener = psycopg.connect(*arguments, **{**options, **self._database.connect_options}, autocommit=True)
        listener.execute(f"LISTEN {CHANNEL}")
        return listener

    def _wait(self, listener: psycopg.Connection) -> psycopg.Connection:
        for _ in listener.notifies(timeout=POLL_S, stop_after=1):
            pass
        return listener

    def _is_ours(self) -> bool:
        """Look at the lease now and then; whether it has been taken.

        A deadline that has passed must stay so for a while: after an outage of the server its owner is given the chance
        to come first.
        """
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + POLL_S
        owner = self._database.look()
        if not may_take(owner):
            self._lapsed = None
            return False
        if owner is not None and not owner.is_gone:
            if self._lapsed is None or self._lapsed[0] != owner.epoch:
                self._lapsed = (owner.epoch, now)
            if now - self._lapsed[1] < self._database.terms.renew_s:
                return False
        if not self._database.take_over():
            return False
        logger.warning("The owner of the store is gone: this service takes its place")
        return True
