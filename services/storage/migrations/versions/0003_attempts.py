"""Tasks that run again, and what has become of each task when."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_USUAL = {"pending": "accepted", "queued": "no_free_device", "running": "device_free", "completed": "finished"}


def upgrade() -> None:
    for table in ("tasks", "log_entries", "metric_points"):
        op.add_column(table, sa.Column("attempt", sa.Integer, nullable=False, server_default="1"))
    op.add_column("tasks", sa.Column("history", sa.JSON))
    _tell_history(op.get_bind())


def _tell_history(connection: sa.Connection) -> None:
    """Every change of status is a line of the log."""
    moment = sa.DateTime(timezone=True)
    tasks = sa.table("tasks", sa.column("task_id"), sa.column("created_at", moment), sa.column("history", sa.JSON))
    lines = sa.table(
        "log_entries",
        *(sa.column(name) for name in ("id", "task_id", "status", "reason")),
        sa.column("timestamp", moment),
    )
    changes: dict[str, list[dict[str, object]]] = {
        task_id: [_transition("pending", None, at)]
        for task_id, at in connection.execute(sa.select(tasks.c.task_id, tasks.c.created_at))
    }
    query = sa.select(lines.c.task_id, lines.c.status, lines.c.reason, lines.c.timestamp)
    for task_id, status, reason, at in connection.execute(query.where(lines.c.status.is_not(None)).order_by("id")):
        changes[task_id].append(_transition(status, reason, at))
    if changes:
        connection.execute(
            tasks.update().where(tasks.c.task_id == sa.bindparam("key")).values(history=sa.bindparam("told")),
            [{"key": task_id, "told": history} for task_id, history in changes.items()],
        )


def _transition(status: str, reason: str | None, at: datetime) -> dict[str, object]:
    utc = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return {
        "status": status,
        "reason": reason or _USUAL.get(status, "unknown"),
        "at": utc.isoformat(),
        "attempt": 1,
    }
