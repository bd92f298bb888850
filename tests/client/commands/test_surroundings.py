"""`trainctl` where what surrounds it is not as usual: full disks, closed streams, odd bytes, proxies, encodings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.commands.conftest import Result
from tests.running_server import RunningServer

Run = Callable[..., Result]
REPOSITORY = Path(__file__).parents[3]
FULL = Path("/dev/full")


@pytest.fixture(scope="module", autouse=True)
def task(train: Callable[..., str]) -> None:
    train("done", epochs=1, name="训练")


def in_shell(
    arguments: str, server: RunningServer, *, redirection: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command as a process of its own, as a shell starts it."""
    return subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m client.commands {arguments} {redirection}'],
        cwd=REPOSITORY,
        env=os.environ | {"TRAINING_SERVICE_URL": server.url} | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", ["export done", "completion bash", "logs done", "list --json", "--help"])
def test_a_full_disk_is_told_in_one_sentence(server: RunningServer, arguments: str) -> None:
    done = in_shell(arguments, server, redirection=f"> {FULL}")
    assert (done.returncode, done.stderr) == (2, b"What was asked for cannot be written: No space left on device.\n")


@pytest.mark.parametrize("arguments", ["export done", "stop done", "list"])
def test_without_a_standard_output_nothing_is_begun(server: RunningServer, arguments: str) -> None:
    done = in_shell(arguments, server, redirection=">&-")
    assert (done.returncode, done.stderr) == (2, b"There is no standard output to write to.\n")


def test_a_complaint_that_has_nowhere_to_go_is_not_taken_for_output(server: RunningServer) -> None:
    done = in_shell("status nowhere", server, redirection="2>&-")
    assert (done.returncode, done.stdout) == (3, b"")


def test_without_a_standard_input_there_is_no_request(server: RunningServer) -> None:
    done = in_shell("start --file -", server, redirection="<&-")
    assert (done.returncode, done.stderr) == (2, b"There is no standard input to read.\n")


@pytest.mark.parametrize("arguments", ["start --description", "status", "logs done --contains"])
def test_an_argument_that_is_no_text_is_refused_in_words(trainctl: Run, arguments: str) -> None:
    result = trainctl(*arguments.split(), os.fsdecode(b"caf\xe9"))
    assert result.status in (2, 3)
    assert result.error.count("\n") == 1
    assert "mistake" not in result.error


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://127.0.0.1:1", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_named(trainctl: Run, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    result = trainctl("list", "--url", "http://train.example.org")
    assert (result.status, result.output) == (2, "")
    assert "ALL_PROXY" in result.error
    assert "--url" not in result.error


def test_a_url_that_is_none_is_told_as_such_by_start_too(trainctl: Run) -> None:
    result = trainctl("start", "--url", "http://[::1", "--", "true")
    assert (result.status, result.output) == (2, "")
    assert "is not an address of a service" in result.error


def test_json_loses_no_letter_where_the_output_has_not_all_of_them(server: RunningServer) -> None:
    done = in_shell("status done --json", server, PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout.decode("ascii"))["name"] == "训练"
    assert "训练".encode() in in_shell("status done --json", server, PYTHONIOENCODING="utf-8").stdout


@pytest.mark.parametrize("columns", ["0", "", "-5", "²", "9" * 5000, "nonsense"])
def test_a_width_that_is_none_is_not_taken(trainctl: Run, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "done" in trainctl("list").output
