"""The folder for a training's checkpoints, gone or read-only: before its turn comes, and in the middle of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.viewer import Viewer
from tests.faults.disk import read_only, small_disk
from tests.faults.running import TRAINING, Running, service
from tests.trainer.helpers import write_images

HOLD = """
import pathlib, time
print("holding")
while not pathlib.Path("go").exists():
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that trains one network at a time, in its own process: what a training does to it would show."""
    with service(tmp_path_factory.mktemp("service"), MAX_TRAINING_CONCURRENT_CPU="1", EXECUTOR="thread") as opened:
        write_images(opened.folder / "train", {"cat": 2, "dog": 2})
        write_images(opened.folder / "val", {"cat": 1, "dog": 1})
        yield opened


def train(running: Running, task_id: str, save_path: Path, **changes: Any) -> None:
    body = {
        "model": "resnet18",
        "num_classes": 2,
        "train_path": str(running.folder / "train"),
        "val_path": str(running.folder / "val"),
        "save_path": str(save_path),
        "num_epochs": 1,
        "image_size": 32,
        "pretrained": False,
        "device": "cpu",
        "task_id": task_id,
    }
    running.http.post(f"{TRAINING}/start", json=body | changes).raise_for_status()


def assert_not_saved(running: Running, task_id: str, save_path: Path) -> None:
    ended = running.ended(task_id)
    assert (ended["status"], ended["reason"]) == ("failed", "not_saved"), ended
    assert str(save_path / task_id) in ended["error"]


def assert_next_one_completes(running: Running, task_id: str, save_path: Path) -> None:
    train(running, task_id, save_path)
    assert running.ended(task_id)["status"] == "completed"
    assert (save_path / task_id / "best.pt").is_file()


def test_a_folder_that_vanishes_while_its_training_waits_is_made_again_where_it_can_be(
    running: Running, tmp_path: Path
) -> None:
    running.run("hold-1", HOLD, tmp_path)
    train(running, "vanished", tmp_path / "gone")
    train(running, "taken", tmp_path / "taken")
    train(running, "neighbour", tmp_path / "there")
    assert running.status("vanished")["status"] == "queued"
    for folder in ("gone", "taken"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "taken").write_text("a file in its place")
    (tmp_path / "go").touch()
    assert running.ended("vanished")["status"] == "completed"
    assert (tmp_path / "gone/vanished/best.pt").is_file()
    assert_not_saved(running, "taken", tmp_path / "taken")
    assert running.ended("neighbour")["status"] == "completed"
    assert (tmp_path / "taken").read_text() == "a file in its place"


def test_a_folder_that_becomes_read_only_while_its_training_waits_fails_it_and_no_other(
    running: Running, tmp_path: Path
) -> None:
    running.run("hold-2", HOLD, tmp_path)
    train(running, "read-only", tmp_path / "runs")
    with read_only(tmp_path / "runs"):
        (tmp_path / "go").touch()
        assert_not_saved(running, "read-only", tmp_path / "runs")
    assert_next_one_completes(running, "after-read-only", tmp_path / "runs")


def test_a_folder_that_vanishes_in_the_middle_of_a_training_fails_it(running: Running, tmp_path: Path) -> None:
    train(running, "midway", tmp_path / "runs", num_epochs=10_000)
    with Viewer(running.process.url, "midway") as viewer:
        viewer.until(lambda entry: entry["message"].startswith("Epoch [2/"))
        shutil.rmtree(tmp_path / "runs")
        last = list(viewer.events())[-1].entry
    assert (last["status"], last["reason"]) == ("failed", "not_saved")
    assert_not_saved(running, "midway", tmp_path / "runs")
    assert_next_one_completes(running, "after-midway", tmp_path / "runs")


def test_a_disk_that_is_full_for_the_checkpoint_fails_the_training_and_leaves_no_half_of_one(
    running: Running, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", megabytes=60) as disk:
        if not disk.is_real:
            pytest.skip("nobody may mount a disk here, and a limit for this process would be one for its store")
        train(running, "no-room", disk.path, num_epochs=10_000)
        ended = running.ended("no-room")
        assert ended["status"] == "failed"
        assert ended["reason"] in ("disk_full", "not_saved")
        assert str(disk.path / "no-room") in ended["error"]
        for left in (disk.path / "no-room").iterdir():
            assert left.suffix in {".pt", ".json"}, "a part of a file was left"
    assert_next_one_completes(running, "after-no-room", tmp_path / "runs")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(running: Running, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with read_only(tmp_path / "runs"):
        body = {"save_path": str(tmp_path / "runs"), "model": "resnet18", "num_classes": 2, "device": "cpu"}
        folders = {"train_path": str(running.folder / "train"), "val_path": str(running.folder / "val")}
        answer = running.http.post(f"{TRAINING}/start", json=body | folders)
    assert answer.status_code == 422
    assert "save_path" in answer.json()["detail"]
    assert os.listdir(tmp_path / "runs") == []  # noqa: PTH208
