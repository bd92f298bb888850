"""A device is given to the next task when nothing of the last one is left, so its memory is back by then.

A lock on a file stands for the memory of a device: the kernel releases both when the last process that
holds them is gone, and not before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app_refactored import build_service
from models.schemas import CommandRequest, TaskStatus
from services.training_service import TrainingService
from settings import Settings
from tests.services.following import wait_for, wait_for_end

HOLD = """
import fcntl, os, signal, sys, time
device = open(sys.argv[1], "w")
fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)
ready, tell = os.pipe()
if not os.fork():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.setsid()
    os.write(tell, b"1")
    time.sleep(600)
os.read(ready, 1)
print("holding", flush=True)
if sys.argv[2] == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif sys.argv[2] == "is stopped":
    time.sleep(600)
"""
"""Leaves a process behind that holds the device, in a session of its own, and does not heed SIGTERM."""
TAKE = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TrainingService]:
    built = build_service(Settings(state_dir=tmp_path / "state", allow_commands=True, stop_grace_s=0.1))
    yield built
    built.close()


@pytest.mark.parametrize("end", ["ends", "is killed", "is stopped"])
def test_the_next_task_of_a_device_starts_when_nothing_of_the_last_one_is_left(
    service: TrainingService, tmp_path: Path, end: str
) -> None:
    device = str(tmp_path / "device")

    def start(script: str, *arguments: str) -> str:
        command = [sys.executable, "-c", script, device, *arguments]
        return service.start_training(CommandRequest(command=command, working_dir=str(tmp_path), device="cpu")).task_id

    first, second = start(HOLD, end), start(TAKE)
    wait_for(service, first, "holding")
    if end == "is stopped":
        service.stop_training(first)
    wait_for_end(service, first)
    assert wait_for_end(service, second).status is TaskStatus.COMPLETED, service.get_logs(second)
