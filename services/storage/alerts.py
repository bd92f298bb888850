"""What is stored of alerts: reads, and the statements that the writer runs in its transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, delete, func, insert, select, update

from services.log_entry import RESOURCES
from services.storage.notices import ALERT, insert_notice, last_row
from services.storage.operations import Notice
from services.storage.store import Reader
from services.storage.tables import (
    alert_channels,
    alert_cursor,
    alert_deliveries,
    alert_firings,
    alert_rules,
    alert_states,
    log_entries,
    tasks,
)


@dataclass(slots=True)
class NewFiring:
    rule_id: int
    rule_name: str
    kind: str
    task_id: str
    message: str
    line_id: int
    attempt: int
    stop: bool
    channels: Sequence[int]


@dataclass(slots=True)
class Evaluated:
    """What came of reading the lines from `before` on, up to and with `row`: one transaction."""

    before: int
    row: int
    states: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    firings: list[NewFiring] = field(default_factory=list)


def write_evaluated(connection: Connection, done: Evaluated) -> list[Notice]:
    """Store it all, or nothing where it is stored already. Rules, tasks and channels deleted meanwhile are left out."""
    if connection.scalar(select(alert_cursor.c.row)) != done.before:
        return []
    connection.execute(update(alert_cursor).values(row=done.row))
    if done.row == done.before and _are_stored(connection, done):  # the cursor of a silence does not say so
        return []
    rules = set(connection.scalars(select(alert_rules.c.id)))
    task_ids = {key[1] for key in done.states} | {each.task_id for each in done.firings}
    known = set(connection.scalars(select(tasks.c.task_id).where(tasks.c.task_id.in_(task_ids))))
    for (rule_id, task_id), state in done.states.items():
        if rule_id in rules and task_id in known:
            where = (alert_states.c.rule_id == rule_id, alert_states.c.task_id == task_id)
            connection.execute(delete(alert_states).where(*where))
            connection.execute(insert(alert_states), {"rule_id": rule_id, "task_id": task_id, "state": state})
    channels = set(connection.scalars(select(alert_channels.c.id))) if done.firings else set()
    firings = (each for each in done.firings if each.rule_id in rules and each.task_id in known)
    return [_write_firing(connection, each, channels) for each in firings]


def _are_stored(connection: Connection, done: Evaluated) -> bool:
    task_ids = {task_id for _, task_id in done.states}
    query = select(alert_states).where(alert_states.c.task_id.in_(task_ids))
    stored = {(row.rule_id, row.task_id): row.state for row in connection.execute(query)}
    return any(stored.get(key) == state for key, state in done.states.items())


def _write_firing(connection: Connection, firing: NewFiring, channels: Collection[int]) -> Notice:
    at = datetime.now(UTC)
    row = {
        "rule_id": firing.rule_id,
        "rule_name": firing.rule_name,
        "kind": firing.kind,
        "task_id": firing.task_id,
        "message": firing.message,
        "line_id": firing.line_id,
        "attempt": firing.attempt,
        "stop_due": firing.stop,
        "at": at,
    }
    key = connection.execute(insert(alert_firings), row).inserted_primary_key
    assert key is not None
    for channel_id in dict.fromkeys(firing.channels):
        if channel_id in channels:
            delivery = {"firing_id": key[0], "channel_id": channel_id, "webhook_id": f"msg_{uuid4().hex}"}
            connection.execute(
                insert(alert_deliveries), {**delivery, "state": "pending", "tries": 0, "next_at": at.timestamp()}
            )
    data = {
        "alert_id": key[0],
        "rule_id": firing.rule_id,
        "rule_name": firing.rule_name,
        "state": "fired",
        "message": firing.message,
        "at": at.isoformat(),
        "line_id": firing.line_id,
    }
    return insert_notice(connection, firing.task_id, ALERT, data)


def begin(connection: Connection, default_rules: Sequence[dict[str, Any]]) -> None:
    """On the first run: the cursor at the present, and the rules that everybody has. They can be deleted for good."""
    if connection.scalar(select(alert_cursor.c.row)) is None:
        connection.execute(insert(alert_cursor), {"id": 1, "row": last_row(connection)})
        for definition in default_rules:
            write_rule(connection, definition)


def write_rule(connection: Connection, definition: dict[str, Any]) -> int:
    """Insert a rule. It begins with the next line."""
    row = {"task_id": definition.get("task_id"), "definition": definition, "after_row": last_row(connection)}
    key = connection.execute(insert(alert_rules), {**row, "created_at": datetime.now(UTC)}).inserted_primary_key
    assert key is not None
    return int(key[0])


def change_rule(connection: Connection, rule_id: int, definition: dict[str, Any], *, anew: bool) -> None:
    """Replace a rule.

    Args:
        anew: it begins with the next line, and knows nothing of those before; else it goes on as it was.
    """
    row = {"task_id": definition.get("task_id"), "definition": definition}
    if anew:
        connection.execute(delete(alert_states).where(alert_states.c.rule_id == rule_id))
        row["after_row"] = last_row(connection)
    connection.execute(update(alert_rules).where(alert_rules.c.id == rule_id).values(row))


def clear_stop(connection: Connection, firing_id: int) -> list[Notice]:
    connection.execute(update(alert_firings).where(alert_firings.c.id == firing_id).values(stop_due=False))
    return []


class AlertStore(Reader):
    """What is committed of alerts."""

    def has_begun(self) -> bool:
        """Whether `begin` was ever committed."""
        with self._reading() as connection:
            return connection.scalar(select(alert_cursor.c.row)) is not None

    def cursor(self) -> int:
        with self._reading() as connection:
            return connection.scalar(select(alert_cursor.c.row)) or 0

    def rules(self) -> list[dict[str, Any]]:
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(select(alert_rules).order_by(alert_rules.c.id)).mappings()]

    def channels(self) -> list[dict[str, Any]]:
        with self._reading() as connection:
            return [
                dict(row) for row in connection.execute(select(alert_channels).order_by(alert_channels.c.id)).mappings()
            ]

    def states(self, task_ids: Collection[str]) -> dict[tuple[int, str], dict[str, Any]]:
        query = select(alert_states).where(alert_states.c.task_id.in_(task_ids))
        with self._reading() as connection:
            return {(row.rule_id, row.task_id): dict(row.state) for row in connection.execute(query)}

    def last_line(self, task_id: str) -> tuple[int, datetime, int] | None:
        """Number, time and attempt of a task's last line, but for those in which the service says what it takes."""
        columns = (log_entries.c.seq, log_entries.c.timestamp, log_entries.c.attempt)
        is_own = log_entries.c.message.startswith(RESOURCES, autoescape=True)
        query = select(*columns).where(log_entries.c.task_id == task_id, ~is_own)
        query = query.order_by(log_entries.c.seq.desc()).limit(1)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else (row[0], row[1], row[2])

    def firings(self, task_id: str | None, after: int | None, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Newest first, with their deliveries."""
        query = select(alert_firings).order_by(alert_firings.c.id.desc()).limit(limit)
        if task_id is not None:
            query = query.where(alert_firings.c.task_id == task_id)
        if after is not None:
            query = query.where(alert_firings.c.id > after)
        if before is not None:
            query = query.where(alert_firings.c.id < before)
        with self._reading() as connection:
            found = [dict(row) for row in connection.execute(query).mappings()]
            wanted = select(alert_deliveries).where(alert_deliveries.c.firing_id.in_([row["id"] for row in found]))
            deliveries = defaultdict(list)
            for row in connection.execute(wanted.order_by(alert_deliveries.c.id)).mappings():
                deliveries[row["firing_id"]].append(dict(row))
        return [{**row, "deliveries": deliveries[row["id"]]} for row in found]

    def stops_due(self) -> list[dict[str, Any]]:
        with self._reading() as connection:
            return [
                dict(row)
                for row in connection.execute(select(alert_firings).where(alert_firings.c.stop_due)).mappings()
            ]

    def due(self, now: float) -> list[dict[str, Any]]:
        """Deliveries to try now, oldest first."""
        joined = alert_deliveries.join(alert_firings, alert_firings.c.id == alert_deliveries.c.firing_id)
        firing = [
            alert_firings.c[name] for name in ("rule_id", "rule_name", "kind", "task_id", "message", "line_id", "at")
        ]
        query = select(alert_deliveries, *firing).select_from(joined)
        query = query.where(alert_deliveries.c.state == "pending", alert_deliveries.c.next_at <= now)
        with self._reading() as connection:
            return [
                dict(row) for row in connection.execute(query.order_by(alert_deliveries.c.id).limit(500)).mappings()
            ]

    def count(self, task_ids: Collection[str]) -> dict[str, int]:
        """Firings of each of these tasks that has any."""
        query = select(alert_firings.c.task_id, func.count()).where(alert_firings.c.task_id.in_(task_ids))
        with self._reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(alert_firings.c.task_id))}
