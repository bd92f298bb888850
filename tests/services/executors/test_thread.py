"""The trainer on a thread of the service: how it is called, and at whose expense it runs."""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from models.schemas import TrainingRequest
from services.executors.base import TRAINING_NICENESS, Run
from services.executors.thread import ThreadExecutor
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.roots import ANYWHERE

LOGGER = logging.Logger("trainer")


class FakeTrainer:
    """Stands where `trainer.loop` does, which would import torch."""

    def __init__(self) -> None:
        self.called_with: dict[str, Any] = {}
        self.niceness = 0
        self.failure: Exception | None = None

    def train(self, request: TrainingRequest, **arguments: Any) -> None:
        self.called_with = {"request": request, **arguments}
        self.niceness = niceness()
        if self.failure is not None:
            raise self.failure


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> FakeTrainer:
    fake, module = FakeTrainer(), ModuleType("trainer.loop")
    module.__dict__["train"] = fake.train
    monkeypatch.setitem(sys.modules, "trainer.loop", module)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    return fake


@pytest.fixture
def run(body: dict[str, Any], tmp_path: Path) -> Run:
    return Run("t", TrainingRequest(**body), tmp_path, "cuda:1", tmp_path / "state")


def train(run: Run) -> None:
    """Run it on a thread of its own, as the service does: niceness cannot be taken back from a thread."""
    raised: list[Exception] = []

    def work() -> None:
        try:
            ThreadExecutor().run(run, LOGGER, bool)
        except Exception as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_the_trainer_gets_what_the_service_has_chosen(trainer: FakeTrainer, run: Run) -> None:
    train(run)
    assert trainer.called_with == {
        "request": run.request,
        "output_dir": run.output_dir,
        "device": "cuda:1",
        "logger": LOGGER,
        "should_stop": bool,
        "resume": False,
        "roots": ANYWHERE,
    }


def test_a_later_attempt_goes_on_at_the_checkpoint_of_the_one_before(trainer: FakeTrainer, run: Run) -> None:
    train(replace(run, attempt=2))
    assert trainer.called_with["resume"] is True


@pytest.mark.parametrize("failure", [TrainingStopped(), TrainingFailed("diverged", "The loss is NaN."), ValueError()])
def test_what_the_trainer_raises_reaches_the_service(trainer: FakeTrainer, run: Run, failure: Exception) -> None:
    trainer.failure = failure
    with pytest.raises(type(failure)) as raised:
        train(run)
    assert raised.value is failure


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to the whole process")
def test_a_training_is_nicer_than_whoever_answers_requests(trainer: FakeTrainer, run: Run) -> None:
    before = niceness()
    train(run)
    assert trainer.niceness == max(before, TRAINING_NICENESS)
    assert niceness() == before


def test_a_training_runs_where_nobody_may_change_his_niceness(
    trainer: FakeTrainer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_arguments: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbidden)
    train(run)
    assert trainer.called_with


@pytest.mark.parametrize(("set_by_user", "order"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_torch_counts_gpus_as_the_service_does(
    trainer: FakeTrainer, run: Run, monkeypatch: pytest.MonkeyPatch, set_by_user: str | None, order: str
) -> None:
    if set_by_user is None:
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    train(run)
    assert os.environ["CUDA_DEVICE_ORDER"] == order
