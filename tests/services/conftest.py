"""A store, and what stands on it, without a web server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.schemas import TrainingRequest
from services.base_service import BaseService
from services.devices import Gpu
from services.storage.database import Database
from services.task_state import TaskState
from services.training_service import TrainingService
from tests.services.trainings import START


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/store.db")) as opened:
        yield opened


@pytest.fixture
def base(database: Database) -> Iterator[BaseService]:
    service = BaseService(database)
    yield service
    service.close()


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """The GPUs of this machine: none, until a test adds some."""
    present: list[Gpu] = []
    monkeypatch.setattr("app_refactored.list_gpus", lambda: present)
    return present


@pytest.fixture
def start(service: TrainingService, body: dict[str, Any]) -> START:
    """`start(**changes)` asks for a training that is right in every field but those."""

    def ask(**changes: Any) -> TaskState:
        return service.start_training(TrainingRequest(**{**body, **changes}))

    return ask


@pytest.fixture
def image_copy(image_folders: Path, tmp_path: Path) -> Path:
    """Image folders that a test may change."""
    return Path(shutil.copytree(image_folders, tmp_path / "images"))
