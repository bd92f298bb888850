"""Rules, channels, firings and deliveries of alerts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "alert_rules",
        sa.Column("id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id", ondelete="CASCADE")),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("after_row", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "alert_channels",
        sa.Column("id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "alert_cursor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("row", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "alert_states",
        sa.Column(
            "rule_id",
            _row_id,
            sa.ForeignKey("alert_rules.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("state", sa.JSON, nullable=False),
    )
    op.create_table(
        "alert_firings",
        sa.Column("id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("rule_id", _row_id, sa.ForeignKey("alert_rules.id", ondelete="CASCADE"), nullable=False),
        sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
        sa.Column("rule_name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("line_id", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("stop_due", sa.Boolean, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Index("ix_alert_firings_task_id", "task_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "alert_deliveries",
        sa.Column("id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("firing_id", _row_id, sa.ForeignKey("alert_firings.id", ondelete="CASCADE"), nullable=False),
        sa.Column("channel_id", _row_id, sa.ForeignKey("alert_channels.id", ondelete="CASCADE"), nullable=False),
        sa.Column("webhook_id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("error", sa.Text),
        sa.Index("ix_alert_deliveries_state", "state", "next_at"),
        sqlite_autoincrement=True,
    )
