"""A store, and what stands on it, without a web server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from services.base_service import BaseService
from services.storage.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/store.db")) as opened:
        yield opened


@pytest.fixture
def base(database: Database) -> Iterator[BaseService]:
    service = BaseService(database)
    yield service
    service.close()
