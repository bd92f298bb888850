"""Both stores: every test that asks for `database` runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from services.storage.database import Database
from tests.stores import EmptyStore


@pytest.fixture
def database(store: EmptyStore) -> Iterator[Database]:
    with closing(Database(store.url)) as opened:
        yield opened
