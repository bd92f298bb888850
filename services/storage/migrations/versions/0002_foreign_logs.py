"""Logs that can be read again, and read on after a restart."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("percents", sa.JSON))
    op.add_column("tasks", sa.Column("log_position", sa.BigInteger))
    op.add_column("tasks", sa.Column("parser_memory", sa.JSON))
    # Until now every line came from a trainer, but for those few that change the status.
    op.add_column("log_entries", sa.Column("parsed", sa.Boolean, nullable=False, server_default=sa.true()))
