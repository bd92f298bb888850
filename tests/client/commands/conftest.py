"""`trainctl` against a real service: one for each module, which runs commands as processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app_refactored import create_app
from client import TrainingClient
from client.commands.cli import main
from settings import Settings
from tests.running_server import RunningServer

TRAINER = """\
import sys, time
epochs, status, wait = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
for epoch in range(1, epochs + 1):
    print(f"Epoch [{epoch}/{epochs}] started", flush=True)
    print(f"Train Loss: {1 / epoch:.4f}, Train Accuracy: {60 + epoch}%", flush=True)
    print("WARNING: the data is 慢", flush=True)
    time.sleep(wait)
sys.exit(status)
"""


@dataclass(frozen=True)
class Result:
    status: int
    output: str
    error: str

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.output.splitlines()]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    state = tmp_path_factory.mktemp("state")
    running = RunningServer(create_app(Settings(state_dir=state, allow_commands=True, max_training_concurrent_cpu=8)))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[TrainingClient]:
    with TrainingClient(server.url, timeout=30) as connected:
        yield connected


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints epochs: its arguments are their number, its exit status and the seconds of each."""
    file = tmp_path_factory.mktemp("code") / "train.py"
    file.write_text(TRAINER, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def train(client: TrainingClient, trainer: Path) -> Callable[..., str]:
    """`train("a", epochs=2)` starts that trainer as a task and waits for its end; returns its id."""

    def start(
        task_id: str, *, epochs: int = 2, status: int = 0, wait: float = 0, until_end: bool = True, **more: Any
    ) -> str:
        command = [sys.executable, str(trainer), str(epochs), str(status), str(wait)]
        client.start(command=command, working_dir=str(trainer.parent), device="cpu", task_id=task_id, **more)
        if until_end:
            client.wait(task_id)
        return task_id

    return start


@pytest.fixture
def trainctl(
    server: RunningServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """`trainctl("list", "--json")` runs the command in this process."""
    monkeypatch.setenv("TRAINING_SERVICE_URL", server.url)
    monkeypatch.delenv("TRAINING_SERVICE_TOKEN", raising=False)

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        status = main(arguments)
        output, error = capsys.readouterr()
        return Result(status, output, error)

    return run
