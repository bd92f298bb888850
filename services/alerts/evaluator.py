"""Reads committed lines by a durable cursor, in a thread of its own, and finds which rules fire.

What a page of lines has come to (firings, deliveries, notices, states, cursor) is one transaction, so that a kill at
any moment loses no firing and repeats none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from models.alerts import Rule
from models.schemas import TaskStatus
from services.alerts.conditions import State, advance
from services.errors import ServiceError
from services.log_entry import LogEntry
from services.state_machine import ALERT
from services.storage.alerts import AlertStore, Evaluated, NewFiring, clear_stop, write_evaluated
from services.storage.events import EventStore
from services.storage.operations import Apply
from services.training_service import TrainingService

logger = logging.getLogger(__name__)

PAGE = 500
IDLE_S = 0.5
"""Between two looks for new lines. Longer than a commit takes, so a fast log is read in pages and not line by line."""


class Evaluator:
    """Args: prepare: called when this service comes to own the store that it has followed."""

    def __init__(
        self, service: TrainingService, store: AlertStore, lines: EventStore, prepare: Callable[[], None]
    ) -> None:
        self._service, self._store, self._lines, self._prepare = service, store, lines, prepare
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        is_prepared = self._service.is_owner
        while not self._closing.is_set():
            try:
                if not self._service.is_owner:
                    self._closing.wait(IDLE_S)
                    continue
                if not is_prepared:
                    self._prepare()
                    is_prepared = True
                if self.evaluate():
                    continue
                self.look_for_silence()
                self._stop_tasks()
            except (ServiceError, TimeoutError) as error:
                logger.warning("Alerts wait for the store: %s", error)
            except Exception:
                logger.exception("Alerts could not be evaluated; they are tried again")
            self._closing.wait(IDLE_S)

    def evaluate(self) -> bool:
        """Take in one page of lines; whether there may be more."""
        before = self._store.cursor()
        page = self._lines.read_lines(before, 2**62, (), PAGE)
        if not page:
            return False
        done = Evaluated(before, page[-1][0])
        rules = [(rule, after_row) for rule, after_row in self._rules() if rule.kind != "silence"]
        known = self._store.states({line.task_id for _, line in page}) if rules else {}
        for row, line in page:
            for rule, after_row in rules:
                if row > after_row and rule.task_id in (None, line.task_id):
                    self._advance(done, rule, line, known)
        self._submit(done)
        return len(page) == PAGE

    def _advance(self, done: Evaluated, rule: Rule, line: LogEntry, known: dict[tuple[int, str], State]) -> None:
        key = (rule.id, line.task_id)
        state = known.setdefault(key, {})
        old = dict(state)
        message = advance(rule, state, line)
        if state != old:
            done.states[key] = state
        if message is not None:
            done.firings.append(_firing(rule, line.task_id, message, line.seq, line.attempt))

    def look_for_silence(self) -> None:
        """Fire for running tasks that have said nothing for too long; once, until they say something."""
        rules = [rule for rule, _ in self._rules() if rule.kind == "silence"]
        running = [key for key, state in list(self._service.tasks.items()) if state.status is TaskStatus.RUNNING]
        if not rules or not running:
            return
        cursor = self._store.cursor()
        done = Evaluated(cursor, cursor)
        known = self._store.states(running)
        for task_id in running:
            last = self._store.last_line(task_id)
            if last is None:
                continue
            seq, at, attempt = last
            for rule in rules:
                silent_s = (datetime.now(UTC) - max(at, rule.created_at)).total_seconds()
                is_new = known.get((rule.id, task_id), {}).get("seq") != seq
                if rule.task_id in (None, task_id) and is_new and silent_s >= (rule.minutes or 0) * 60:
                    done.states[rule.id, task_id] = {"seq": seq}
                    message = f"No line for {rule.minutes:g} minutes"
                    done.firings.append(_firing(rule, task_id, message, seq, attempt))
        if done.firings:
            self._submit(done)

    def _submit(self, done: Evaluated) -> None:
        self._service.apply(Apply(lambda connection: write_evaluated(connection, done)))

    def _rules(self) -> Sequence[tuple[Rule, int]]:
        rows = self._store.rules()
        rules = [
            (Rule(**row["definition"], id=row["id"], created_at=row["created_at"]), row["after_row"]) for row in rows
        ]
        return [(rule, after_row) for rule, after_row in rules if rule.enabled]

    def _stop_tasks(self) -> None:
        """Stop what firings want stopped. A firing says so until it is done, so a kill in between loses no stop."""
        for firing in self._store.stops_due():
            state = self._service.tasks.get(firing["task_id"])
            if state is not None and state.attempt == firing["attempt"]:
                try:
                    why = f"Stop requested by the alert rule {firing['rule_name']!r}: {firing['message']}"
                    self._service.stop_training(firing["task_id"], reason=ALERT, message=why)
                except ServiceError as error:
                    logger.info("An alert need not stop %s: %s", firing["task_id"], error)
            self._service.apply(Apply(partial(clear_stop, firing_id=firing["id"])))


def _firing(rule: Rule, task_id: str, message: str, line_id: int, attempt: int) -> NewFiring:
    return NewFiring(
        rule.id, rule.name, rule.kind, task_id, message, line_id, attempt, rule.action == "stop", rule.channels
    )
