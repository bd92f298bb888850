"""Tasks, log entries and metric points."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_RowId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", _RowId, primary_key=True, autoincrement=True),
        sa.Column("task_id", sa.String(64), nullable=False, unique=True),
        sa.Column("task_type", sa.String(32), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("output_dir", sa.Text, nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64)),
        sa.Column("error", sa.Text),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("current_epoch", sa.Double),
        sa.Column("total_epochs", sa.BigInteger),
        sa.Column("latest_metrics", sa.JSON, nullable=False),
        sa.Column("stage", sa.String(32), nullable=False),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.Column("updated_at", _Time, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tasks_status", "tasks", ["status", "id"])
    op.create_table(
        "log_entries",
        sa.Column("id", _RowId, primary_key=True, autoincrement=True),
        sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("timestamp", _Time, nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("metrics", sa.JSON),
        sa.Column("step", sa.BigInteger),
        sa.Column("stage", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16)),
        sa.Column("reason", sa.String(64)),
        sa.UniqueConstraint("task_id", "seq", name="uq_log_entries_task_id_seq"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "metric_points",
        sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Double),
        sa.Column("step", sa.BigInteger),
        sa.Column("value", sa.Double),
        sqlite_with_rowid=False,
    )
