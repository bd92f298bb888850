"""Alembic's entry point: migrate over the connection that the service hands in."""

from alembic import context

from services.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
