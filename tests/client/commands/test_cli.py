"""What all commands of `trainctl` have in common: how they end, what they say, what shells are told."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from app_refactored import create_app
from client.commands import cli, exits
from client.demo.local_service import free_url
from settings import Settings
from tests.client.commands.conftest import Result
from tests.running_server import RunningServer

Run = Callable[..., Result]
REPOSITORY = Path(__file__).parents[3]
EVERY_COMMAND = [
    ("start", "--", "true"),
    ("list",),
    ("status", "t"),
    ("watch", "t"),
    ("logs", "t"),
    ("stop", "t"),
    ("resume", "t"),
    ("compare", "t", "u"),
    ("export", "t"),
    ("import", "/tmp/x"),
]


def test_no_command_is_forgotten_here() -> None:
    assert {arguments[0] for arguments in EVERY_COMMAND} | {"completion"} == set(cli.trainctl.commands)


@pytest.mark.parametrize("arguments", EVERY_COMMAND, ids=lambda arguments: arguments[0])
def test_nobody_answers(trainctl: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    url = free_url()
    monkeypatch.setenv("TRAINING_SERVICE_URL", url)
    result = trainctl(*arguments)
    assert (result.status, result.output) == (4, "")
    assert result.error.startswith(f"The training service at {url} does not answer")
    assert result.error.endswith("or give its address with --url or TRAINING_SERVICE_URL.\n")
    assert result.error.count("\n") == 1


def test_a_token_is_asked_for(trainctl: Run, tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path / "state", "api_tokens": "right"})
    server = RunningServer(create_app(settings))
    try:
        refused = trainctl("list", "--url", server.url)
        assert (refused.status, refused.output) == (5, "")
        assert "TRAINING_SERVICE_TOKEN" in refused.error
        assert trainctl("--url", server.url, "--token", "right", "list").status == 0
        assert trainctl("list", "--url", server.url, "--token", "wrong").status == 5
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bogus",), "No such command 'bogus'"),
        (("status",), "Missing argument 'TASK...'"),
        (("list", "--limit", "0"), "--limit"),
        (("list", "--url", "nonsense"), "is not an address of a service"),
    ],
)
def test_a_command_that_is_wrong_is_one_sentence(trainctl: Run, arguments: tuple[str, ...], said: str) -> None:
    result = trainctl(*arguments)
    assert (result.status, result.output) == (2, "")
    assert said in result.error
    assert result.error.count("\n") == 1


def test_a_mistake_of_its_own_is_one_sentence_too(trainctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("no")

    monkeypatch.setattr("client.training_client.TrainingClient.list", fail)
    result = trainctl("list")
    assert (result.status, result.output) == (70, "")
    assert result.error.startswith("trainctl has made a mistake")


def test_a_pipe_that_is_closed_early_ends_it_quietly(server: RunningServer, train: Callable[..., str]) -> None:
    train("long", epochs=400)
    process = subprocess.Popen(
        [sys.executable, "-m", "client.commands", "logs", "long", "--url", server.url],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"Task accepted" in process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(60) == 0


def test_every_exit_status_is_in_the_help_and_in_both_readmes(trainctl: Run) -> None:
    shown = trainctl("--help").output
    readmes = [(REPOSITORY / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md")]
    for number, meaning in exits.MEANINGS:
        assert f"{number}  {meaning}" in shown
        assert all(f"| `{number}` |" in readme for readme in readmes)


def test_every_command_is_in_both_readmes() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        text = (REPOSITORY / name).read_text("utf-8")
        assert [each for each in cli.trainctl.commands if f"trainctl {each}" not in text] == []


def test_the_installed_script_is_this_one() -> None:
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    module, _, function = scripts["trainctl"].partition(":")
    assert getattr(import_module(module), function) is cli.main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script(trainctl: Run, shell: str) -> None:
    result = trainctl("completion", shell)
    assert (result.status, result.error) == (0, "")
    assert f"_TRAINCTL_COMPLETE={shell}_complete" in result.output


def completed(words: str, url: str) -> list[str]:
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_TRAINCTL_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-m", "client.commands"],
        cwd=REPOSITORY,
        env=os.environ | environment | {"TRAINING_SERVICE_URL": url},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_tasks_are_completed_from_the_service(server: RunningServer, train: Callable[..., str]) -> None:
    train("completed-id", epochs=1, name="completed-name")
    assert completed("trainctl stop comp", server.url) == ["plain,completed-id", "plain,completed-name"]
    assert completed("trainctl stop comp", free_url()) == []
    assert completed("trainctl res", server.url) == ["plain,resume"]
