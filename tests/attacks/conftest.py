"""Two services that each attack is tried on, and what an attacker finds on their machine."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.schemas import ImportRequest, TrainingRequest
from services.executors.base import Run
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.service_process import ServiceProcess
from trainer.errors import TrainingStopped

CLASSES = 3
SECRET = "a line that nobody was to read"


@dataclass(frozen=True)
class Target:
    """A service, and its folder: `data` and `runs` are what it may use, `secret` is what it may not."""

    url: str
    folder: Path

    def body(self, **changes: Any) -> dict[str, Any]:
        """A start request like any other."""
        return {
            "model": "resnet18",
            "num_classes": CLASSES,
            "train_path": str(self.folder / "data/train"),
            "val_path": str(self.folder / "data/val"),
            "save_path": str(self.folder / "runs"),
            "device": "cpu",
            **changes,
        }

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/api/v2/{path}", timeout=60, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}/api/v2/{path}", timeout=60, **options)


def machine(folder: Path, images: Path) -> Path:
    shutil.copytree(images, folder / "data")
    for name in ("runs", "secret"):
        (folder / name).mkdir()
    (folder / "secret/secret.log").write_text(f"{SECRET}\n")
    (folder / "data/link").symlink_to(folder / "secret")
    (folder / "runs/link").symlink_to(folder / "secret")
    return folder


def print_class_names(run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
    """A trainer like many; it then waits until it is stopped, if it is called `held`."""
    if isinstance(run.request, ImportRequest):
        for line in Path(run.request.path).read_bytes().decode().split("\n"):
            logger.info(line)
        return
    assert isinstance(run.request, TrainingRequest)
    for path in Path(run.request.train_path).iterdir():
        logger.info("Class %s", path.name)
    waiting = threading.Event()
    while run.request.name == "held" and not waiting.wait(0.01):
        if should_stop():
            raise TrainingStopped


@pytest.fixture
def ours(
    tmp_path: Path,
    image_folders: Path,
    serve: Callable[..., RunningServer],
    executor: ScriptedExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> Target:
    """The real service, as one sets it up for others."""
    monkeypatch.setattr("app_refactored.list_gpus", list)
    (tmp_path / "ours").mkdir()
    folder = machine(tmp_path / "ours", image_folders)
    executor.script = print_class_names
    server = serve(data_roots=(folder / "data",), save_roots=(folder / "runs",), max_training_concurrent_cpu=9)
    return Target(server.url, folder)


@pytest.fixture
def stock(tmp_path: Path, image_folders: Path) -> Iterator[Target]:
    """The other one; in a process of its own, as some attacks leave nothing else to do than to kill it."""
    (tmp_path / "stock").mkdir()
    folder = machine(tmp_path / "stock", image_folders)
    with ServiceProcess("-m", "tests.attacks.stock_app", folder=folder) as process:
        yield Target(process.start().url, folder)
