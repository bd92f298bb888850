"""Which executor a task gets."""

from __future__ import annotations

from typing import Any

import pytest

from models.schemas import CommandRequest, ImportRequest, TrainingRequest
from services.executors.choice import Executors, Setting
from services.executors.file import FileExecutor
from services.executors.process import ProcessExecutor
from services.executors.thread import ThreadExecutor
from tests.scripted_executor import ScriptedExecutor


@pytest.mark.parametrize(
    ("setting", "asked_for", "device", "chosen"),
    [
        ("auto", None, "cpu", "thread"),
        ("auto", None, "cuda", "process"),
        ("auto", None, "cuda:1", "process"),
        ("thread", None, "cuda:1", "thread"),
        ("process", None, "cpu", "process"),
        ("process", "thread", "cuda:1", "thread"),
        ("thread", "process", "cpu", "process"),
        ("auto", "thread", "cuda:1", "thread"),
    ],
)
def test_a_training_gets_what_it_asks_for_else_what_is_set_else_what_suits_its_device(
    setting: Setting, asked_for: str | None, device: str, chosen: str, body: dict[str, Any]
) -> None:
    request = TrainingRequest(**body, executor=asked_for)
    assert Executors(setting, stop_grace_s=1).choose(request, device) == chosen


@pytest.mark.parametrize("setting", ["auto", "thread", "process"])
def test_a_command_is_a_process_and_a_file_is_read(setting: Setting) -> None:
    executors = Executors(setting, stop_grace_s=1)
    assert executors.choose(CommandRequest(command=["ls"], working_dir="/"), "cpu") == "process"
    assert executors.choose(ImportRequest(path="/log"), "file") == "file"


def test_each_name_is_that_of_an_executor() -> None:
    executors = Executors("auto", stop_grace_s=1)
    assert isinstance(executors["thread"], ThreadExecutor)
    assert isinstance(executors["process"], ProcessExecutor)
    assert isinstance(executors["file"], FileExecutor)
    only = ScriptedExecutor()
    assert Executors("auto", stop_grace_s=1, only=only)["file"] is only
