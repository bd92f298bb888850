"""A log file that somebody else writes, rotates, shortens and removes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.schemas import ImportRequest
from services.executors.base import Detached, Run
from services.executors.file import FileExecutor
from tests.services.executors.task import Task
from trainer.errors import TrainingFailed, TrainingStopped

Import = Callable[..., Task]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "train.log"
    path.write_bytes(b"one\nERROR: two\n")
    return path


@pytest.fixture
def read(log: Path, tmp_path: Path) -> Iterator[Import]:
    tasks: list[Task] = []

    def begin(path: Path = log, *, follow: bool = False, position: int = 0) -> Task:
        request = ImportRequest(path=str(path), follow=follow)
        run = Run("t", request, tmp_path, "cpu", tmp_path / "state", position)
        tasks.append(Task(FileExecutor(), run))
        return tasks[-1]

    yield begin
    for task in tasks:
        task.detach()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_file_is_read_to_its_present_end(log: Path, read: Import) -> None:
    append(log, "half")
    task = read()
    assert task.end() is None
    assert task.messages == ["one", "ERROR: two", "half"]
    assert [record.levelname for record in task.records] == ["INFO", "ERROR", "INFO"]
    assert task.position == log.stat().st_size


def test_reading_goes_on_at_the_position(read: Import) -> None:
    task = read(position=4)
    assert task.end() is None
    assert task.messages == ["ERROR: two"]


def test_a_file_that_was_shortened_meanwhile_is_read_from_its_start(log: Path, read: Import) -> None:
    task = read(position=1000)
    assert task.end() is None
    assert task.messages == [f"{log} was shortened: reading it from its start.", "one", "ERROR: two"]
    assert task.records[0].levelname == "WARNING"
    assert [record.__dict__["position"] for record in task.records] == [0, 4, 15]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing.log", "No such file or directory"),
        ("folder", "it is not a regular file"),
        ("pipe", "it is not a regular file"),
        ("train.log/x", "Not a directory"),
    ],
)
@pytest.mark.parametrize("follow", [False, True])
def test_what_cannot_be_read_says_why(tmp_path: Path, read: Import, name: str, why: str, follow: bool) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    raised = read(tmp_path / name, follow=follow).end()
    assert isinstance(raised, TrainingFailed)
    assert raised.reason == "file_unreadable"
    assert str(raised) == f"{str(tmp_path / name)!r} cannot be read: {why}."


def test_what_is_added_is_followed_until_the_stop(log: Path, read: Import) -> None:
    task = read(follow=True)
    task.wait_for_line("ERROR: two")
    append(log, "thr")
    append(log, "ee\nfo")
    task.wait_for_line("three")
    assert isinstance(task.stop(), TrainingStopped)
    assert task.messages == ["one", "ERROR: two", "three", "fo"]


def test_the_next_service_goes_on(log: Path, read: Import) -> None:
    first = read(follow=True)
    append(log, "three\nhalf of ")
    first.wait_for_line("three")
    assert isinstance(first.detach(), Detached)
    append(log, "a line\n")
    second = read(follow=True, position=first.position)
    second.wait_for_line("half of a line")
    assert first.messages + second.messages == ["one", "ERROR: two", "three", "half of a line"]


def test_a_rotated_file_is_read_to_its_end_and_the_new_one_from_its_start(log: Path, read: Import) -> None:
    task = read(follow=True)
    task.wait_for_line("ERROR: two")
    log.rename(log.with_suffix(".old"))
    append(log.with_suffix(".old"), "last\n")
    task.wait_for_line(f"{log} is gone: waiting for it to come back.")
    task.wait_for_line("last")
    (log.parent / "next").write_text("new one\n" * 10)
    (log.parent / "next").rename(log)
    task.wait_for(lambda messages: messages.count("new one") == 10)
    assert task.messages[4:] == [f"{log} was replaced: reading it from its start.", *["new one"] * 10]
    assert task.records[4].__dict__["position"] == 0
    assert task.position == 80


def test_a_file_that_is_emptied_and_written_again_is_read_from_its_start(log: Path, read: Import) -> None:
    append(log, "half a line")
    task = read(follow=True)
    task.wait_for_line("ERROR: two")
    os.truncate(log, 0)
    task.wait_for_line(f"{log} was shortened: reading it from its start.")
    append(log, "again\n")
    task.wait_for_line("again")
    assert task.messages[2] == "half a line"
    assert task.position == 6


def test_a_file_that_is_gone_after_a_restart_is_waited_for(log: Path, read: Import) -> None:
    content = log.read_bytes()
    log.unlink()
    task = read(follow=True, position=4)
    task.wait_for_line(f"{log} is gone: waiting for it to come back.")
    (log.parent / "next").write_bytes(content)
    (log.parent / "next").rename(log)
    task.wait_for_line("ERROR: two")
    assert len(task.messages) == 2


def test_a_file_that_is_gone_can_be_stopped(log: Path, read: Import) -> None:
    task = read(follow=True)
    task.wait_for_line("one")
    log.unlink()
    task.wait_for_line(f"{log} is gone: waiting for it to come back.")
    assert isinstance(task.stop(), TrainingStopped)


def test_a_file_of_the_kernel_is_not_read_through_a_link_that_comes_later(log: Path, read: Import) -> None:
    append(log, "half a line")
    task = read(follow=True)
    task.wait_for_line("ERROR: two")
    (log.parent / "next").symlink_to("/proc/self/environ")
    (log.parent / "next").rename(log)
    raised = task.end()
    assert isinstance(raised, TrainingFailed)
    assert raised.reason == "file_unreadable"
    assert task.messages == ["one", "ERROR: two", "half a line"]
