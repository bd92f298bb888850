"""Which executor a task gets."""

from __future__ import annotations

from typing import Any

import pytest

from models.schemas import CommandRequest, ImportRequest, TrainingRequest
from services.executors import choice
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


def test_several_workers_are_processes_and_on_a_cluster_jobs(body: dict[str, Any]) -> None:
    two = TrainingRequest(**body, num_workers=2)
    assert Executors("thread", stop_grace_s=1).choose(two, "cpu") == "process"
    executors = Executors("ray", stop_grace_s=1, ray_address="http://127.0.0.1:8265")
    assert executors.choose(executors.placed(two), "ray") == "ray"


@pytest.mark.parametrize(("asked_for", "placed"), [(None, "ray"), ("process", "process")])
def test_what_does_not_ask_for_an_executor_is_for_the_cluster_where_that_is_set(
    asked_for: str | None, placed: str
) -> None:
    executors = Executors("ray", stop_grace_s=1, ray_address="http://127.0.0.1:8265")
    request = executors.placed(CommandRequest(command=["ls"], working_dir="/", executor=asked_for))
    assert executors.choose(request, "cpu") == placed
    assert executors.problems(request) == []


def test_without_a_cluster_or_its_client_a_request_for_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    request = CommandRequest(command=["ls"], working_dir="/", executor="ray")
    assert [each.code for each in Executors("auto", stop_grace_s=1).problems(request)] == ["ray_not_configured"]
    monkeypatch.setattr(choice, "find_spec", lambda _name: None)
    executors = Executors("auto", stop_grace_s=1, ray_address="http://127.0.0.1:8265")
    assert [each.code for each in executors.problems(request)] == ["ray_not_installed"]


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
