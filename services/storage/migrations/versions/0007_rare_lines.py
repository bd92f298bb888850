"""An index of the few lines that are no INFO: the errors of a long log are found without reading it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_IS_RARE = sa.text("upper(level) != 'INFO'")


def upgrade() -> None:
    op.create_index(
        "ix_log_entries_rare",
        "log_entries",
        ["task_id", "seq", "level"],
        sqlite_where=_IS_RARE,
        postgresql_where=_IS_RARE,
    )
