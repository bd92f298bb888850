"""The driver of the GPUs takes its time, or does not answer, while tasks wait and run."""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from typing import Any

import pytest

from app_refactored import build_service
from models.schemas import TaskStatus, TrainingRequest
from services.devices import Gpu
from services.executors.base import Run
from services.training_service import TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import wait_for, wait_for_end
from tests.services.trainings import SHOULD_STOP, TIMEOUT_S
from trainer.errors import TrainingStopped

ONE = (Gpu("cuda:0", 0),)


class Driver:
    """Of a machine with one GPU, until a test says otherwise."""

    def __init__(self) -> None:
        self.answer: tuple[Gpu, ...] | None = ONE
        self.has_failed = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> tuple[Gpu, ...] | None:
        assert self.may_answer.wait(TIMEOUT_S)
        if self.answer is None:
            self.has_failed.set()
        return self.answer


@pytest.fixture
def driver(gpus: list[Gpu], monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr("app_refactored.list_gpus", driver)
    monkeypatch.setattr("services.known_gpus.RETRY_S", 0.01)
    return driver


def ask(service: TrainingService, body: dict[str, Any], task_id: str, device: str, **changes: Any) -> TaskStatus:
    return service.start_training(TrainingRequest(**{**body, "task_id": task_id, "device": device, **changes})).status


def test_a_driver_that_hangs_holds_up_no_line_of_another_task(
    settings: Settings, driver: Driver, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def script(run: Run, logger: logging.Logger, should_stop: SHOULD_STOP) -> None:
        logger.info("Holding")
        if run.task_id == "on-cpu":
            assert go_on.wait(TIMEOUT_S)
            logger.info("A line")
        while not should_stop():
            threading.Event().wait(0.005)
        raise TrainingStopped

    executor = ScriptedExecutor()
    executor.script = script
    with closing(build_service(settings, executor)) as service:
        assert ask(service, body, "on-cpu", "cpu") is TaskStatus.RUNNING
        assert ask(service, body, "on-gpu", "cuda:0") is TaskStatus.RUNNING
        assert ask(service, body, "any-gpu", "cuda") is TaskStatus.QUEUED
        assert ask(service, body, "stopped", "cpu") is TaskStatus.QUEUED
        wait_for(service, "on-cpu", "Holding")
        with monkeypatch.context() as patch:
            patch.setattr("services.known_gpus.FRESH_S", 0)
            driver.may_answer.clear()
            service.stop_training("stopped")
            go_on.set()
            wait_for(service, "on-cpu", "A line")
            assert not driver.may_answer.is_set()
        driver.may_answer.set()


def test_a_task_starts_when_the_driver_answers_again_though_none_has_come_or_gone(
    settings: Settings,
    driver: Driver,
    executor: ScriptedExecutor,
    body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor.hold()
    with closing(build_service(settings, executor)) as service:
        assert ask(service, body, "first", "cuda") is TaskStatus.RUNNING
        assert ask(service, body, "second", "cuda") is TaskStatus.QUEUED
        with monkeypatch.context() as patch:
            patch.setattr("services.known_gpus.FRESH_S", 0)
            driver.answer = None
            service.stop_training("first")
            assert wait_for_end(service, "first").status is TaskStatus.CANCELLED
            assert driver.has_failed.wait(TIMEOUT_S)
        assert service.get_task("second").status is TaskStatus.QUEUED
        driver.answer = ONE
        wait_for(service, "second", "Training starts on cuda:0")


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_training_on_a_gpu_waits_for_a_driver_that_is_ready_later_than_the_service(
    settings: Settings, driver: Driver, executor: ScriptedExecutor, body: dict[str, Any], device: str
) -> None:
    executor.hold()
    with closing(build_service(settings, executor)) as service:
        assert ask(service, body, "t", device) is TaskStatus.RUNNING
        wait_for(service, "t", "Holding")
    driver.answer = None
    later = ScriptedExecutor()
    with closing(build_service(settings, later)) as again:
        assert driver.has_failed.wait(TIMEOUT_S)
        assert again.get_task("t").status is TaskStatus.QUEUED
        driver.answer = ONE
        state = wait_for_end(again, "t")
    assert (state.status, state.device) == (TaskStatus.COMPLETED, "cuda:0")
    assert [(run.device, run.attempt) for run in later.started] == [("cuda:0", 2)]


def test_one_whose_gpu_is_gone_once_the_driver_answers_fails(
    settings: Settings, driver: Driver, executor: ScriptedExecutor, body: dict[str, Any]
) -> None:
    executor.hold()
    with closing(build_service(settings, executor)) as service:
        assert ask(service, body, "t", "cuda:0") is TaskStatus.RUNNING
        wait_for(service, "t", "Holding")
    driver.answer = None
    with closing(build_service(settings, ScriptedExecutor())) as again:
        assert driver.has_failed.wait(TIMEOUT_S)
        driver.answer = ()
        state = wait_for_end(again, "t")
    assert (state.status, state.reason) == (TaskStatus.FAILED, "device_not_found")
