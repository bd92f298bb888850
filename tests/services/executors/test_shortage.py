"""A moment in which the service lacks descriptors or memory costs no trainer."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.executors import patience
from services.executors.base import Detached
from services.executors.process import ProcessExecutor
from services.executors.supervised import end_what_runs
from services.executors.supervisor import read_status
from tests.services.executors.shortage import nothing_can_be_opened
from tests.services.executors.task import Task, command_run, left_of, supervisor_of
from trainer.errors import TrainingFailed, TrainingStopped


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """It ends by itself once there is something to read in `go`."""
    monkeypatch.setattr(patience, "RETRY_S", 0.01)
    run = command_run(tmp_path, ["sh", "-c", "mkfifo go; echo ready; cat go"])
    started = Task(ProcessExecutor(), run)
    started.wait_for_line("ready")
    yield started
    if supervisor_of(run) is not None:
        end_what_runs(run.run_dir)


def may_end(task: Task) -> None:
    (task.current.output_dir / "go").write_text("done\n")


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=errno.errorcode.get)
def test_a_trainer_is_followed_on_after_it(task: Task, error: int) -> None:
    with nothing_can_be_opened(error) as tried:
        tried(5)
    may_end(task)
    assert task.end() is None
    assert task.messages == ["ready", "done"]


def test_a_service_that_starts_in_it_finds_the_trainer_after_it(task: Task) -> None:
    assert isinstance(task.detach(), Detached)
    with nothing_can_be_opened(errno.EMFILE) as tried:
        second = Task(ProcessExecutor(), task.resumed())
        tried(5)
    may_end(task)
    assert second.end() is None
    assert second.messages == ["done"]


def test_a_stop_in_it_is_passed_on_after_it(task: Task) -> None:
    with nothing_can_be_opened(errno.EMFILE) as tried:
        task.ask_to_stop()
        tried(5)
    assert isinstance(task.end(), TrainingStopped)
    assert left_of(task.current) == []


def test_a_service_that_lets_go_in_it_does_not_wait_for_its_end(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RETRY_S", 3600)
    with nothing_can_be_opened(errno.EMFILE) as tried:
        tried(1)
        assert isinstance(task.detach(), Detached)
    may_end(task)


def test_a_trainer_whose_supervisor_is_killed_in_it_is_ended_after_it(task: Task) -> None:
    supervisor = supervisor_of(task.current)
    assert supervisor is not None
    with nothing_can_be_opened(errno.EMFILE) as tried:
        supervisor.kill()
        tried(5)
    failure = task.end()
    assert isinstance(failure, TrainingFailed)
    assert failure.reason == "supervisor_lost"
    assert left_of(task.current) == []


def test_a_process_that_cannot_be_asked_about_is_not_taken_for_one_that_is_gone() -> None:
    with nothing_can_be_opened(errno.ENFILE), ThreadPoolExecutor(1) as thread:
        asking = thread.submit(read_status, 1)
        assert isinstance(asking.exception(), OSError)
