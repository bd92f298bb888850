"""A checkpoint that is written beside the training is the one that would have been written in between."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.helpers import logger_and_lines, never, request_for, same, write_digits
from trainer import checkpoint_file
from trainer.checkpoint import read_checkpoint
from trainer.checkpoint_file import BEST, LAST
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.loop import train
from trainer.saving import Saving


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=12, validation=4, classes=2)


@pytest.fixture
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a GPU."""
    monkeypatch.setattr("trainer.run.Saving", lambda beside: Saving(beside=True))


OPTIONS: dict[str, Any] = {"optimizer": "adamw", "ema_decay": 0.9, "schedule": "plateau", "early_stopping_patience": 9}


def content(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return read_checkpoint(file)


class Waiting(logging.Handler):
    """Until the third epoch has been trained."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self.trained = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.getMessage().startswith("Train Loss")
        if self.lines == 3:
            self.trained.set()


@pytest.mark.usefixtures("_beside")
def test_it_holds_what_was_saved_and_not_what_the_training_has_made_of_it_since(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(digits, num_epochs=3, **OPTIONS)
    stopped, said = logger_and_lines()
    with pytest.raises(TrainingStopped):
        train(
            request,
            output_dir=tmp_path / "stopped",
            device="cpu",
            logger=stopped,
            should_stop=lambda: "Epoch [3/3] started" in said.messages,
        )
    write, second = checkpoint_file.write_checkpoint_file, tmp_path / "second.pt"
    logger, waiting = logging.Logger("test"), Waiting()
    logger.addHandler(waiting)

    def late(path: Path, *arguments: Any) -> None:
        is_second = path.name == LAST and path.exists() and not second.exists()
        if is_second:
            assert waiting.trained.wait(60)
        write(path, *arguments)
        if is_second:
            second.write_bytes(path.read_bytes())

    monkeypatch.setattr("trainer.checkpoint.write_checkpoint_file", late)
    train(request, output_dir=tmp_path / "whole", device="cpu", logger=logger, should_stop=never)
    assert same(content(second), content(tmp_path / "stopped" / LAST))
    assert content(tmp_path / "whole" / LAST)["epoch"] == 3


@pytest.mark.usefixtures("_beside")
def test_a_stop_waits_for_it(digits: Path, tmp_path: Path) -> None:
    logger, said = logger_and_lines()
    begun = "Epoch [3/5] started"
    with pytest.raises(TrainingStopped):
        train(
            request_for(digits, num_epochs=5),
            output_dir=tmp_path,
            device="cpu",
            logger=logger,
            should_stop=lambda: begun in said.messages,
        )
    assert content(tmp_path / LAST)["epoch"] == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("save")]


@pytest.mark.usefixtures("_beside")
def test_the_second_epoch_is_not_begun_before_there_is_something_to_go_on_from(digits: Path, tmp_path: Path) -> None:
    logger, there = logging.Logger("test"), []

    class Look(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Epoch [2/2] started"):
                there.append((tmp_path / LAST).exists())

    logger.addHandler(Look())
    train(request_for(digits, num_epochs=2), output_dir=tmp_path, device="cpu", logger=logger, should_stop=never)
    assert there == [True]


@pytest.mark.usefixtures("_beside")
def test_a_stop_stays_one_and_what_went_wrong_meanwhile_is_said(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, said = logger_and_lines()
    write, stopping = checkpoint_file.write_checkpoint_file, threading.Event()

    def full(path: Path, *arguments: Any) -> None:
        if path.name == LAST and path.exists():
            assert stopping.wait(60)
            raise TrainingFailed("disk_full", "full")
        write(path, *arguments)

    def stop() -> bool:
        if "Epoch [3/5] started" in said.messages:
            stopping.set()
        return stopping.is_set()

    monkeypatch.setattr("trainer.checkpoint.write_checkpoint_file", full)
    with pytest.raises(TrainingStopped):
        train(request_for(digits, num_epochs=5), output_dir=tmp_path, device="cpu", logger=logger, should_stop=stop)
    assert said.at("WARNING") == ["full"]
    assert content(tmp_path / LAST)["epoch"] == 1


@pytest.mark.usefixtures("_beside")
@pytest.mark.parametrize("epochs", [1, 3])
def test_what_goes_wrong_fails_the_training(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    write = checkpoint_file.write_checkpoint_file

    def full(path: Path, *arguments: Any) -> None:
        if path.name == LAST:
            raise TrainingFailed("disk_full", "full")
        write(path, *arguments)

    monkeypatch.setattr("trainer.checkpoint.write_checkpoint_file", full)
    logger, said = logger_and_lines()
    with pytest.raises(TrainingFailed, match="full"):
        train(
            request_for(digits, num_epochs=epochs),
            output_dir=tmp_path,
            device="cpu",
            logger=logger,
            should_stop=never,
        )
    assert said.at("ERROR") == ["full"]
    assert not any(message.startswith("Training complete") for message in said.messages)
    assert not any(message.startswith("Epoch [2/3]") for message in said.messages)
    assert (tmp_path / BEST).exists()


def test_writes_come_one_after_the_other() -> None:
    saving, done = Saving(beside=True), []
    gate = threading.Event()

    def first() -> None:
        assert gate.wait(10)
        done.append("first")

    saving.run(lambda: done.append("at once"))
    saving.run(first)
    threading.Timer(0.1, gate.set).start()
    saving.run(lambda: done.append("second"))
    saving.close()
    assert done == ["at once", "first", "second"]


def test_without_a_thread_it_is_written_at_once() -> None:
    done: list[str] = []
    Saving(beside=False).run(lambda: done.append("written"))
    assert done == ["written"]
