"""What a running task takes of the machine, as lines of its log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app_refactored import build_service
from models.schemas import CommandRequest, ImportRequest
from services.devices import Gpu
from services.executors.base import TRAINING_NICENESS, Run
from services.resource_samples import Sampler
from services.training_service import TrainingService
from settings import Settings
from tests.scripted_executor import ScriptedExecutor
from tests.services.following import wait_for, wait_for_end
from tests.services.trainings import START

BUSY = """
import subprocess, sys
print("Epoch [2/5] started", flush=True)
held = bytearray(64 * 2**20)
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print("busy", flush=True)
child.wait()
"""

SHARING = """
import os, signal
held = bytearray(256 * 2**20)
for _ in range(3):
    if not os.fork():
        signal.pause()
print("shared", flush=True)
signal.pause()
"""


def sampler(service: TrainingService, gpus: list[Gpu] | None = None) -> Sampler:
    return Sampler(service.running_trainings, lambda: gpus or [], None)


def samples(service: TrainingService, task_id: str) -> list[dict[str, float]]:
    found = [entry for entry in service.get_logs(task_id) if entry["message"].startswith("Resources: ")]
    return [entry["metrics"] for entry in found]


def look_until(
    service: TrainingService, task_id: str, is_enough: Callable[[dict[str, float]], bool]
) -> dict[str, float]:
    """Look again and again, as far apart as the clock of the kernel needs."""
    looking, deadline = sampler(service), time.monotonic() + 30
    while time.monotonic() < deadline:
        looking.look()
        found = samples(service, task_id)
        if found and is_enough(found[-1]):
            return found[-1]
        time.sleep(0.2)
    raise AssertionError(samples(service, task_id))


@pytest.fixture
def processes(settings: Settings) -> Iterator[TrainingService]:
    service = build_service(settings.model_copy(update={"allow_commands": True, "stop_grace_s": 0.5}))
    yield service
    service.close()


def test_of_a_process_all_that_it_has_started_counts(processes: TrainingService, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUSY]
    task = processes.start_training(CommandRequest(command=command, working_dir=str(tmp_path), device="cpu"))
    wait_for(processes, task.task_id, "busy")
    found = look_until(processes, task.task_id, lambda sample: sample.get("cpu_percent", 0) > 1)
    assert found["memory_mib"] > 64
    assert found["epoch"] == 2
    assert processes.get_task(task.task_id).latest_metrics["cpu_percent"] == found["cpu_percent"]
    assert processes.get_task(task.task_id).current_epoch == 2
    processes.stop_training(task.task_id)
    wait_for_end(processes, task.task_id)
    told = len(samples(processes, task.task_id))
    sampler(processes).look()
    assert len(samples(processes, task.task_id)) == told


def test_of_a_thread_what_it_has_started_counts(
    service: TrainingService, executor: ScriptedExecutor, start: START
) -> None:
    def train(_run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        logger.info("busy")
        while not should_stop():
            sum(range(10_000))

    executor.script = train
    task = start()
    wait_for(service, task.task_id, "busy")
    found = look_until(service, task.task_id, lambda sample: sample.get("cpu_percent", 0) > 1)
    assert found.keys() == {"cpu_percent", "memory_mib"}  # a log without epochs has none
    service.stop_training(task.task_id)
    wait_for_end(service, task.task_id)


def test_memory_that_processes_share_counts_once(processes: TrainingService, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHARING]
    task = processes.start_training(CommandRequest(command=command, working_dir=str(tmp_path), device="cpu"))
    wait_for(processes, task.task_id, "shared")
    found = look_until(processes, task.task_id, lambda _: True)
    assert 256 < found["memory_mib"] < 2 * 256
    processes.stop_training(task.task_id)
    wait_for_end(processes, task.task_id)


def test_processes_of_a_training_in_a_thread_count(
    service: TrainingService, executor: ScriptedExecutor, start: START
) -> None:
    def train(_run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(before, TRAINING_NICENESS))
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
            logger.info("busy")
            while not should_stop():
                time.sleep(0.01)
            child.kill()

    executor.script = train
    task = start()
    wait_for(service, task.task_id, "busy")
    look_until(service, task.task_id, lambda sample: sample.get("cpu_percent", 0) > 10)
    service.stop_training(task.task_id)
    wait_for_end(service, task.task_id)


def test_a_gpu_is_told_as_its_driver_does(
    service: TrainingService, executor: ScriptedExecutor, gpus: list[Gpu], start: START
) -> None:
    gpus.append(Gpu("cuda:0", 512 * 2**20, 2**30, "Model", 0.5))
    executor.hold()
    task = start(device="cuda:0")
    wait_for(service, task.task_id, "Holding")
    sampler(service, gpus).look()
    (found,) = samples(service, task.task_id)
    assert (found["gpu_memory_mib"], found["gpu_percent"]) == (512, 50)


def test_what_waits_or_is_read_from_a_file_takes_nothing(
    service: TrainingService, executor: ScriptedExecutor, start: START, tmp_path: Path
) -> None:
    executor.hold()
    first, waiting = start(), start()
    wait_for(service, first.task_id, "Holding")
    log = tmp_path / "train.log"
    log.write_text("a line\n")
    followed = service.start_training(ImportRequest(path=str(log), follow=True))
    wait_for(service, followed.task_id, "Holding")
    sampler(service).look()
    assert [len(samples(service, task.task_id)) for task in (first, waiting, followed)] == [1, 0, 0]


def test_without_the_setting_nobody_looks(service: TrainingService) -> None:
    looking = sampler(service)
    before = threading.active_count()
    looking.start()
    assert threading.active_count() == before
    looking.close()
