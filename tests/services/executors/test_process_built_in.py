"""The built-in trainer as a process: nobody who reads its log can tell it from the one in a thread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.schemas import TrainingRequest
from services.executors.base import Executor, Run
from services.executors.process import ProcessExecutor
from services.executors.thread import ThreadExecutor
from tests.services.executors.task import Task, left_of
from tests.trainer.helpers import request_for, write_images
from trainer.errors import TrainingFailed, TrainingStopped


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In both: sums of several threads differ in their last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path / "train", {"cat": 3, "dog": 3})
    write_images(tmp_path / "val", {"cat": 1, "dog": 1})
    return tmp_path


def train(executor: Executor, root: Path, **changes: Any) -> Task:
    folder = root / type(executor).__name__
    folder.mkdir()
    request: TrainingRequest = request_for(root, **changes)
    return Task(executor, Run("t", request, folder, "cpu", folder / "state"))


def lines(task: Task) -> list[tuple[str, str]]:
    """Without what depends on the time: how long an epoch took, and lines within it."""
    found = [(record.levelname, re.sub(r"[\d.]+s$", "", record.getMessage())) for record in task.records]
    return [(level, message) for level, message in found if ", Step [" not in message]


def test_lines_and_files_are_those_of_the_thread(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    changes = {"num_epochs": 2, "pretrained": False, "train_path": "train"}
    thread, process = train(ThreadExecutor(), root, **changes), train(ProcessExecutor(), root, **changes)
    assert thread.end() is None
    assert process.end() is None
    assert lines(process) == lines(thread)
    assert {path.name for path in process.current.output_dir.glob("*.pt")} == {"best.pt", "last.pt"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_path": "/nowhere"}, "path_not_found"),
        ({"learning_rate": 100.0, "num_epochs": 50, "optimizer": "sgd", "warmup_epochs": 0.0}, "diverged"),
    ],
)
def test_a_failure_has_the_reason_and_the_words_of_the_thread(root: Path, changes: dict[str, Any], reason: str) -> None:
    thread, process = train(ThreadExecutor(), root, **changes), train(ProcessExecutor(), root, **changes)
    expected, found = thread.end(), process.end()
    assert isinstance(expected, TrainingFailed)
    assert isinstance(found, TrainingFailed)
    assert (found.reason, str(found)) == (expected.reason, str(expected))
    assert found.reason == reason
    assert lines(process)[-1] == lines(thread)[-1] == ("ERROR", str(found))


def test_a_stop_takes_effect_and_leaves_nothing(root: Path) -> None:
    process = train(ProcessExecutor(), root, num_epochs=100_000)
    process.wait_for_line("Epoch [2/100000] started")
    assert isinstance(process.stop(), TrainingStopped)
    assert (process.current.output_dir / "last.pt").is_file()
    assert left_of(process.current) == []


def test_a_module_in_the_services_folder_does_not_take_the_place_of_the_trainer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "trainer.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(root)
    assert train(ProcessExecutor(), root).end() is None
