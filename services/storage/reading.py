"""A store that is only read, beside the service that owns it."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from services.errors import StoreUnusable
from services.storage.tables import SCHEMA_REVISION


class ReadOnlyDatabase:
    """Engine of a store at this program's revision. Nothing can be written through it.

    Raises:
        StoreUnusable: it cannot be read, or is of another release.
    """

    def __init__(self, store: str) -> None:
        url = make_url(store)
        if url.get_backend_name() == "sqlite":
            url = url.set(database=f"file:{url.database}", query={"mode": "ro", "uri": "true"})
            self.engine: Engine = create_engine(url, hide_parameters=True)
        else:
            options = {"options": "-c default_transaction_read_only=on"}
            self.engine = create_engine(url, hide_parameters=True, connect_args=options)
        try:
            with self.engine.connect() as connection:
                revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
        except DBAPIError as error:
            raise StoreUnusable(f"The store {make_url(store)!r} cannot be read: {error.orig}.") from error
        if revision != SCHEMA_REVISION:
            raise StoreUnusable(f"The store is at revision {revision}, not {SCHEMA_REVISION}: start the service once.")
