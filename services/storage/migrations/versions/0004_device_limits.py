"""Limits of devices that were set while the service ran."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "device_limits",
        sa.Column("device", sa.String(32), primary_key=True),
        sa.Column("limit", sa.Integer, nullable=False),
    )
