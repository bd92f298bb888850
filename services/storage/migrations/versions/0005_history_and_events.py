"""Times of points, extremes of long series, events that are no lines, and how often a task was read again.

Series that are there already get their buckets when they are first asked for.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("tasks", sa.Column("revision", sa.Integer, nullable=False, server_default="0"))
    op.add_column("metric_points", sa.Column("at", sa.Double))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    seconds = "(julianday(timestamp) - 2440587.5) * 86400.0" if is_sqlite else "extract(epoch FROM timestamp)"
    op.execute(
        f"UPDATE metric_points SET at = (SELECT {seconds} FROM log_entries WHERE "  # noqa: S608 - one of two constants
        "log_entries.task_id = metric_points.task_id AND log_entries.seq = metric_points.seq)"
    )
    op.create_table(
        "metric_buckets",
        sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("last_seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("first_seq", sa.BigInteger, nullable=False),
        sa.Column("points", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("epoch_min", sa.Double),
        sa.Column("epoch_max", sa.Double),
        sa.Column("min_seq", sa.BigInteger),
        sa.Column("min_value", sa.Double),
        sa.Column("max_seq", sa.BigInteger),
        sa.Column("max_value", sa.Double),
        sa.Column("null_seq", sa.BigInteger),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "notices",
        sa.Column("id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("after_row", sa.BigInteger, nullable=False),
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
