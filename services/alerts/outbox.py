"""Delivers what is in the outbox: each channel in a thread of its own, so that a dead receiver delays no other."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import Counter
from sqlalchemy import Connection, update

from models.alerts import WebhookBody
from services.alerts.senders import SendError, send
from services.errors import ServiceError
from services.storage.alerts import AlertStore
from services.storage.operations import Apply, Notice
from services.storage.tables import alert_deliveries

logger = logging.getLogger(__name__)

MAX_TRIES = 12
MAX_DELAY_S = 4 * 3600
LOOK_S = 0.5


class Outbox:
    """Args:
    first_delay_s: after the first failure; it doubles with each, up to four hours, with jitter.
    is_owner: whether it is this service that delivers.
    """

    def __init__(
        self,
        store: AlertStore,
        apply: Callable[[Apply], None],
        *,
        allow_private: bool,
        first_delay_s: float = 5,
        is_owner: Callable[[], bool] = lambda: True,
    ) -> None:
        self._is_owner = is_owner
        self._store, self._apply = store, apply
        self._allow_private, self._first_delay_s = allow_private, first_delay_s
        self._lock = threading.Lock()
        self._busy: set[int] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alert-outbox", daemon=True)
        self.attempts = Counter(
            "training_alert_deliveries",
            "Attempts to deliver an alert: delivered, to be tried again (pending), or given up (failed)",
            ["outcome"],
            registry=None,
        )
        for outcome in ("delivered", "pending", "failed"):
            self.attempts.labels(outcome)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                if self._is_owner():
                    self._dispatch()
            except ServiceError as error:
                logger.warning("The outbox waits for the store: %s", error)
            except Exception:
                logger.exception("The outbox could not be read; it is tried again")
            self._closing.wait(LOOK_S)

    def _dispatch(self) -> None:
        with self._lock:
            busy = set(self._busy)  # before reading: what a worker has just settled must not be read as due
        due: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for row in self._store.due(time.time()):
            due[row["channel_id"]].append(row)
        channels = {row["id"]: row for row in self._store.channels()} if due else {}
        for key in due.keys() & channels.keys() - busy:
            with self._lock:
                self._busy.add(key)
            threading.Thread(target=self._deliver, args=(channels[key], due[key]), daemon=True).start()

    def _deliver(self, channel: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            for row in rows:
                if self._closing.is_set():
                    return
                if not self._try(channel, row):
                    return
        except (ServiceError, TimeoutError) as error:
            logger.warning("A delivery could not be noted, and may come again with the same id: %s", error)
        finally:
            with self._lock:
                self._busy.discard(channel["id"])

    def _try(self, channel: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        tries = row["tries"] + 1
        names = ("rule_id", "rule_name", "kind", "task_id", "message", "line_id")
        data = {"alert_id": row["firing_id"], **{name: row[name] for name in names}}
        body = WebhookBody(type="alert.fired", timestamp=row["at"], data=data)
        changes: dict[str, Any] = {"tries": tries, "state": "delivered"}
        try:
            changes["error"] = send(channel, row["webhook_id"], body, allow_private=self._allow_private)
        except SendError as error:
            delay = min(self._first_delay_s * 2 ** (tries - 1), MAX_DELAY_S) * random.uniform(0.5, 1)  # noqa: S311
            state = "failed" if error.final or tries >= MAX_TRIES else "pending"
            changes = {"tries": tries, "state": state, "error": str(error), "next_at": time.time() + delay}
        self.attempts.labels(changes["state"]).inc()
        self._apply(Apply(partial(_settle, key=row["id"], changes=changes)))
        return bool(changes["state"] == "delivered")


def _settle(connection: Connection, *, key: int, changes: Mapping[str, Any]) -> list[Notice]:
    connection.execute(update(alert_deliveries).where(alert_deliveries.c.id == key).values(changes))
    return []
