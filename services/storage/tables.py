"""The tables. A change here needs a migration beside it; a test compares the two.

Times are stored in UTC. `log_entries.id` grows over all tasks, `(task_id, seq)` counts 1, 2, 3, ... within
one; a metric point carries the sequence number of the line it was read from, and that line's time (`at`, seconds since
1970), so that a series is read from one place. `tasks.percents` lists the families
of accuracies that are percent; `log_position` and `parser_memory` say where and how a log is read on.
`device_limits` holds only the limits that were set while the service ran; they win over its settings.

`tasks.removed_until` says how far a task's log has been removed (`services.storage.retention`).

`tasks.revision` counts how often the task's lines have been read again: what was known of its metrics before is void.
`metric_buckets` says of each full run of points of a series where its extremes are (`services.storage.buckets`), so
that a long series can be drawn without being read. `notices` are events that are no lines: a task was read again, or
deleted; `after_row` is the last row of `log_entries` before it, so that both have one order.

`ownership` has one row in a PostgreSQL store, and none in SQLite: see `services.storage.ownership`.
`provenance` has for each run of a task what it was made from, and under attempt 0 the request as it was sent.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    true,
)
from sqlalchemy.types import TypeDecorator

SCHEMA_REVISION = "0010"
"""Newest migration; a store at this revision is opened without importing Alembic."""

_RowId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself for INTEGER only


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite keeps no offset, so it is put back when a row is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

tasks = Table(
    "tasks",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("task_id", String(64), nullable=False, unique=True),
    Column("task_type", String(32), nullable=False),
    Column("name", Text),
    Column("description", Text),
    Column("priority", Integer, nullable=False),
    Column("request", JSON, nullable=False),
    Column("output_dir", Text, nullable=False),
    Column("device", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(64)),
    Column("error", Text),
    Column("progress", Integer, nullable=False),
    Column("current_epoch", Double),
    Column("total_epochs", BigInteger),
    Column("latest_metrics", JSON, nullable=False),
    Column("stage", String(32), nullable=False),
    Column("warnings", JSON, nullable=False),
    Column("percents", JSON(none_as_null=True)),
    Column("log_position", BigInteger),
    Column("parser_memory", JSON(none_as_null=True)),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("history", JSON(none_as_null=True)),
    Column("revision", Integer, nullable=False, server_default="0"),
    Column("removed_until", BigInteger),
    Column("last_seq", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("ix_tasks_status", "status", "id"),
    sqlite_autoincrement=True,
)

log_entries = Table(
    "log_entries",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("task_id", String(64), ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("level", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("metrics", JSON(none_as_null=True)),
    Column("step", BigInteger),
    Column("stage", String(32), nullable=False),
    Column("status", String(16)),
    Column("reason", String(64)),
    Column("parsed", Boolean, nullable=False, server_default=true()),
    Column("attempt", Integer, nullable=False, server_default="1"),
    UniqueConstraint("task_id", "seq", name="uq_log_entries_task_id_seq"),
    sqlite_autoincrement=True,  # else the numbers of deleted rows would be used again
)
upper_level = func.upper(log_entries.c.level)
is_rare: ColumnElement[bool] = upper_level != literal_column("'INFO'")
"""Lines of any other level are few in nearly every log, so they have an index. A query that is to use it says this."""
Index(
    "ix_log_entries_rare",
    log_entries.c.task_id,
    log_entries.c.seq,
    log_entries.c.level,
    sqlite_where=is_rare,
    postgresql_where=is_rare,
)

metric_points = Table(
    "metric_points",
    metadata,
    Column("task_id", String(64), ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", Double),
    Column("step", BigInteger),
    Column("value", Double),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("at", Double),
    sqlite_with_rowid=False,
)

metric_buckets = Table(
    "metric_buckets",
    metadata,
    Column("task_id", String(64), ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("last_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("points", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch_min", Double),
    Column("epoch_max", Double),
    Column("min_seq", BigInteger),
    Column("min_value", Double),
    Column("max_seq", BigInteger),
    Column("max_value", Double),
    Column("null_seq", BigInteger),
    sqlite_with_rowid=False,
)

notices = Table(
    "notices",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("after_row", BigInteger, nullable=False),
    Column("task_id", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("data", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

provenance = Table(
    "provenance",
    metadata,
    Column("task_id", String(64), ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("record", JSON, nullable=False),
)

device_limits = Table(
    "device_limits",
    metadata,
    Column("device", String(32), primary_key=True),
    Column("limit", Integer, nullable=False),
)

ownership = Table(
    "ownership",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("process", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("runs", Text, nullable=False),
    Column("backend", Integer, nullable=False),
    Column("expires_at", UtcDateTime),
)

alert_rules = Table(
    "alert_rules",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("task_id", String(64), ForeignKey("tasks.task_id", ondelete="CASCADE")),
    Column("definition", JSON, nullable=False),
    Column("after_row", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

alert_channels = Table(
    "alert_channels",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("url", Text, nullable=False),
    Column("secret", Text),
    Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

alert_cursor = Table(
    "alert_cursor",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("row", BigInteger, nullable=False),
)

alert_states = Table(
    "alert_states",
    metadata,
    Column("rule_id", _RowId, ForeignKey("alert_rules.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("task_id", String(64), ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
    Column("state", JSON, nullable=False),
)

alert_firings = Table(
    "alert_firings",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("rule_id", _RowId, ForeignKey("alert_rules.id", ondelete="CASCADE"), nullable=False),
    Column("task_id", String(64), ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
    Column("rule_name", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("line_id", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stop_due", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_alert_firings_task_id", "task_id"),
    sqlite_autoincrement=True,
)

alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("firing_id", _RowId, ForeignKey("alert_firings.id", ondelete="CASCADE"), nullable=False),
    Column("channel_id", _RowId, ForeignKey("alert_channels.id", ondelete="CASCADE"), nullable=False),
    Column("webhook_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", Double, nullable=False),
    Column("error", Text),
    Index("ix_alert_deliveries_state", "state", "next_at"),
    sqlite_autoincrement=True,
)
