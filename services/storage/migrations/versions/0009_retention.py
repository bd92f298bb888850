"""Up to which line the log of a task has been removed."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("removed_until", sa.BigInteger))
