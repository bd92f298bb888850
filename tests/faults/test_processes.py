"""Trainers that the kernel or the service kills, seen through the service: the reason is true, and the others go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.executors.memory import kill_counter
from tests.faults.running import Running, service, trainers, until

COUNT = """
import itertools, time
for number in itertools.count(1):
    print(f"line {number}")
    time.sleep(0.01)
"""
EAT = "print('hungry')\nfood = bytearray(b'x') * 2 * 10**9"
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready")
time.sleep(600)
"""
LIMIT = 500_000_000
"""Bytes for a whole service with all that it runs: the hungriest, which the kernel picks, must be the trainer."""


@contextmanager
def memory_group() -> Iterator[Path]:
    """A control group with a limit, or no test: it takes root, and a machine that lets it."""
    counter = kill_counter(Path("/proc/self/cgroup").read_text())
    if counter is None:
        pytest.skip("no control group counts here")
    limit = "memory.limit_in_bytes" if counter.name == "memory.oom_control" else "memory.max"
    group = counter.parent / f"test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"nobody may make a control group here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


def test_a_trainer_that_the_kernel_kills_for_memory_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    with memory_group() as group:
        with service(tmp_path) as running:
            (group / "cgroup.procs").write_text(str(running.process.pid))
            running.run("neighbour", COUNT, tmp_path)
            until(lambda: running.lines("neighbour"), lambda lines: len(lines) > 5)
            running.run("hungry", EAT, tmp_path)
            ended = running.ended("hungry")
            assert (ended["status"], ended["reason"]) == ("failed", "out_of_memory")
            assert "The kernel did that: there was no memory left. Its last line: hungry" in ended["error"]
            assert running.health()["status"] == "ok"
            assert_goes_on(running)
            running.stop("neighbour")
            assert running.ended("neighbour")["status"] == "cancelled"
            running.process.end(signal.SIGTERM)
        until(lambda: (group / "cgroup.procs").read_text(), lambda left: not left)


def test_a_trainer_that_somebody_kills_was_killed_and_no_more_is_claimed(tmp_path: Path) -> None:
    with service(tmp_path, STOP_GRACE_S="0.5") as running:
        running.run("neighbour", COUNT, tmp_path)
        for task_id in ("victim", "deaf"):
            running.run(task_id, DEAF, tmp_path)
            until(lambda task_id=task_id: running.lines(task_id), lambda lines: lines[-1][1] == "ready")  # type: ignore[misc]
        (trainer,) = trainers(tmp_path / "state/runs/victim")
        trainer.kill()
        assert running.ended("victim")["reason"] == "killed_by_signal_9"
        running.stop("deaf")
        ended = running.ended("deaf")
        assert (ended["status"], ended["reason"]) == ("cancelled", "user_stop")
        assert running.lines("deaf")[-2][1] == "The trainer did not end within 0.5 s of SIGTERM and was killed."
        assert_goes_on(running)
        running.stop("neighbour")
        running.ended("neighbour")


def assert_goes_on(running: Running) -> None:
    known = running.lines("neighbour")
    until(lambda: running.lines("neighbour"), lambda lines: len(lines) > len(known) + 5)
