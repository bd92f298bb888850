"""What every test can ask for: image folders, a service with a trainer that does what the test says, a real server."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser

from app_refactored import build_service, create_app
from services.training_service import TrainingService
from settings import Settings
from tests.chromium import launch
from tests.running_postgres import RunningPostgres
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.stores import EmptyStore, PostgresStore, SqliteStore, execute

CLASSES = ("cat", "dog", "fox")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What trainers say may hold half a character, and a report must get from one process to another."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Neither the machine's environment nor a developer's `.env` reaches a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.setitem(Settings.model_config, "env_file", None)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[RunningPostgres]:
    """A PostgreSQL server that starts with the first test that needs it."""
    server = RunningPostgres()
    execute(server.url("postgres"), "CREATE DATABASE store", "CREATE DATABASE of_a_module")
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmptyStore:
    """An empty store: every test that asks for it runs on SQLite and on a real PostgreSQL."""
    if request.param == "sqlite":
        monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.05)
        return SqliteStore(tmp_path)
    server: RunningPostgres = request.getfixturevalue("postgres")
    return PostgresStore(server)


@pytest.fixture
def store_settings(store: EmptyStore) -> dict[str, str]:
    """What a service of its own is given to use `store`: nothing, where that is an SQLite file."""
    if isinstance(store, SqliteStore):
        return {}
    return {"DATABASE_URL": store.url.render_as_string(hide_password=False)}


@pytest.fixture(scope="session")
def image_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train/` and `val/`, each with three classes of two 8x8 images. Tests must not change it."""
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for shade, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("L", (8, 8), color=80 * shade + number).save(folder / f"{number}.png")
    return root


@pytest.fixture
def body(image_folders: Path, tmp_path: Path) -> dict[str, Any]:
    """A start request that is right in every field."""
    return {
        "model": "resnet18",
        "num_classes": len(CLASSES),
        "train_path": str(image_folders / "train"),
        "val_path": str(image_folders / "val"),
        "save_path": str(tmp_path / "runs"),
        "num_epochs": 2,
        "device": "cpu",
    }


@pytest.fixture
def executor() -> Iterator[ScriptedExecutor]:
    scripted = ScriptedExecutor()
    yield scripted
    scripted.release()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state")


@pytest.fixture
def service(settings: Settings, executor: ScriptedExecutor) -> Iterator[TrainingService]:
    """A service without a web server."""
    built = build_service(settings, executor)
    yield built
    executor.release()
    built.close()


@pytest.fixture
def serve(settings: Settings, executor: ScriptedExecutor) -> Iterator[Callable[..., RunningServer]]:
    """`serve()` starts a real server, on a free port if none is given; other arguments change its settings."""
    running: list[RunningServer] = []

    def start(port: int = 0, **changes: Any) -> RunningServer:
        server = RunningServer(create_app(settings.model_copy(update=changes), executor), port)
        running.append(server)
        return server

    yield start
    executor.release()
    for server in running:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    return serve()


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch() as chromium:
        yield chromium
