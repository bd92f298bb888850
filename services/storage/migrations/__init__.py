"""Schema migrations, run by Alembic when a store is older than this program."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the store behind `engine` to a revision, the newest if none is named, in one transaction."""
    config = Config()
    config.set_main_option("script_location", "services.storage:migrations")
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")  # the driver begins by itself at an INSERT, not at a CREATE TABLE
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
