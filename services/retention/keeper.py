"""Lets go of what is old, once a day, a little at a time: who writes or reads meanwhile must not notice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from prometheus_client import Counter
from sqlalchemy import Connection

from services.artifacts import remove_artifact
from services.errors import ServiceError
from services.retention.plans import OldLines, Planner, Rules
from services.storage.database import Database
from services.storage.retention import (
    RetentionStore,
    forget_buckets,
    free_pages,
    give_back,
    gives_room_back,
    remove_part,
)
from services.storage.series import SeriesStore
from services.storage.store import Store
from trainer.roots import Folders

logger = logging.getLogger("services.retention")

FIRST_S = 600.0
"""After the start of the service, which has other things to do then."""
EVERY_S = 24 * 3600.0
PART_LINES = 500
PAUSE_S = 0.02
"""After each part. Measured beside lines that come in (`doc/OPERATIONS.md`)."""
PART_PAGES = 256
FEW_PAGES = 1024
"""So many free pages stay in the file: lines to come need them soon."""
Result = TypeVar("Result")


class Service(Protocol):
    """What this needs of the service whose past it is."""

    store: Store
    series: SeriesStore

    @property
    def database(self) -> Database: ...

    @property
    def is_owner(self) -> bool: ...

    def is_live(self, task_id: str) -> bool: ...

    def write(self, statements: Callable[[Connection], Result]) -> Result: ...


@dataclass(slots=True)
class Removed:
    """What has gone."""

    tasks: int = 0
    lines: int = 0
    points: int = 0
    checkpoints: int = 0
    checkpoint_bytes: int = 0
    store_bytes: int = 0

    def __str__(self) -> str:
        return (
            f"{self.lines:,} lines and {self.points:,} points of {self.tasks:,} tasks, "
            f"{self.checkpoints:,} checkpoints ({self.checkpoint_bytes:,} bytes); "
            f"the store has given back {self.store_bytes:,} bytes"
        )


class Retention:
    """Owns the thread that does it. Closed before the service."""

    def __init__(self, service: Service, rules: Rules, save_roots: Folders) -> None:
        self._service, self._rules, self._save_roots = service, rules, save_roots
        self._planner = Planner(service.store, RetentionStore(service.database), service.series, save_roots)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
        self.removed = Counter(
            "training_retention_removed", "What was let go because it was old", ["what"], registry=None
        )

    def start(self) -> None:
        if not self._rules.keeps_everything:
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def run_once(self) -> Removed:
        """Let go of all that may go now; of less, if the service ends meanwhile.

        Raises:
            ServiceError, TimeoutError: the store does not take it at present. What has gone has gone.
        """
        removed = Removed()
        for old in self._planner.old_lines(self._rules):
            if self._closing.is_set():
                return removed
            if not self._service.is_live(old.state.task_id):
                self._remove_lines(old, removed)
        for checkpoint in self._planner.old_checkpoints(self._rules):
            if not self._service.is_live(checkpoint.state.task_id):
                remove_artifact(checkpoint.state, checkpoint.name, self._save_roots)
                self.removed.labels("checkpoints").inc()
                removed.checkpoints += 1
                removed.checkpoint_bytes += checkpoint.size
                logger.info("Removed %s of %s", checkpoint.name, checkpoint.state.task_id)
        self._give_room_back(removed)
        return removed

    def _remove_lines(self, old: OldLines, removed: Removed) -> None:
        task_id = old.state.task_id
        self._service.write(lambda connection: forget_buckets(connection, task_id))
        for after in range(old.after, old.until, PART_LINES):
            until = min(after + PART_LINES, old.until)
            if self._closing.is_set():
                return

            def part(connection: Connection, after: int = after, until: int = until) -> tuple[int, int]:
                return remove_part(connection, task_id, old.names, after, until, old.kept)

            lines, points = self._service.write(part)
            removed.lines += lines
            removed.points += points
            self.removed.labels("lines").inc(lines)
            self.removed.labels("points").inc(points)
            self._closing.wait(PAUSE_S)
        # a reader may have asked for new ones
        self._service.write(lambda connection: forget_buckets(connection, task_id))
        removed.tasks += 1

    def _give_room_back(self, removed: Removed) -> None:
        """Only what this store can give page by page; another one is made small by a backup that is restored."""
        while not self._closing.is_set():

            def part(connection: Connection) -> int:
                if not gives_room_back(connection) or free_pages(connection) <= FEW_PAGES:
                    return 0
                return give_back(connection, PART_PAGES)

            size = self._service.write(part)
            if size <= 0:
                return
            removed.store_bytes += size
            self._closing.wait(PAUSE_S)

    def _run(self) -> None:
        pause = FIRST_S
        while not self._closing.wait(pause):
            pause = EVERY_S
            if not self._service.is_owner:  # another service does it
                continue
            try:
                removed = self.run_once()
            except (ServiceError, TimeoutError) as error:
                logger.warning("Old lines stay for now: %s", error)
            except Exception:
                logger.exception("Old lines could not be removed; it is tried again tomorrow")
            else:
                logger.info("Removed what was old: %s", removed)
