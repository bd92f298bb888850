"""The demonstration script from the command line: what it says and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

import test_training_metrics as script
from client import TrainingClient
from client.demo import local_service
from client.demo.local_service import answers, free_url
from client.display import Board

FAKE = Path(__file__).with_name("fake_app.py")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where the script will start a stand-in; its files go to `tmp_path`."""
    monkeypatch.setattr(local_service, "APP", FAKE)
    monkeypatch.setattr(script, "HOME", tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test run keeps its own
    monkeypatch.delenv("TRAINING_SERVICE_URL", raising=False)
    monkeypatch.delenv("TRAINING_SERVICE_TOKEN", raising=False)
    return free_url()


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
    return ["--train-path", str(tmp_path / "train"), "--val-path", str(tmp_path / "val"), "--num-epochs", "2"]


def test_a_run_from_start_to_end(url: str, data: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--url", url, *data]) == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    for said in ("Warning: colour is ignored", "epoch 2/2: train_loss 0.5000", "curl -N", "Checkpoint", url):
        assert said in output
    for name in script.METRICS:
        assert f"│ {name} " in output
    assert "82.45%" in output
    assert not answers(url)


def test_an_error_in_a_strangers_words_is_one_printable_line(
    url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_arguments: object) -> None:
        raise script.DemoError("no \x1b[2J\x1b]0;title\x07disk\r\nAll is well")

    monkeypatch.setattr(script, "training_request", fail)
    assert script.main(["--url", url]) == 1
    (line,) = capfd.readouterr().err.split("\n")[:-1]
    assert line.isprintable()
    assert line.startswith("no ")


def test_a_training_that_fails(
    url: str, data: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "failed")
    assert script.main(["--url", url, *data]) == 1
    assert capfd.readouterr().err == "Training t failed: The disk is full.\n"


def test_a_request_that_is_refused(url: str, data: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--url", url, *data, "--num-epochs", "0"]) == 1
    assert capfd.readouterr().err == "num_epochs: must be at least 1\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--url", "nonsense"], "'nonsense' is not an address of a service"),
        (["--url", "http://192.0.2.1"], "Give --train-path, --val-path, --num-classes and --save-path"),
        (["--train-path", "x"], "Give --train-path and --val-path together, or neither."),
        (["--train-path", "/none", "--val-path", "/none"], "/none is not there, or has no sub-folders"),
    ],
)
def test_what_cannot_start(url: str, arguments: list[str], sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--url", url, *arguments]) == 1
    output, errors = capfd.readouterr()
    assert errors.startswith(sentence)
    assert errors.count("\n") == 1
    assert output == ""


def test_without_scikit_learn(
    url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert script.main(["--url", url]) == 1
    assert "there is no sklearn" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_own_data_leaves_the_rest_to_the_service(url: str, data: list[str], tmp_path: Path) -> None:
    request = script.training_request(script.parse(["--url", url, *data, "--learning-rate", "0.1"]))
    assert request == {
        "model": "resnet18",
        "num_classes": 2,
        "num_epochs": 2,
        "learning_rate": 0.1,
        "train_path": str(tmp_path / "train"),
        "val_path": str(tmp_path / "val"),
        "save_path": str(tmp_path / "runs"),
    }


def test_hidden_folders_are_no_classes(url: str, data: list[str], tmp_path: Path) -> None:
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert script.training_request(script.parse(["--url", url, *data]))["num_classes"] == 2


def test_an_empty_address_in_the_environment_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINING_SERVICE_URL", "")
    assert script.parse([]).url == script.LOCAL
    monkeypatch.setenv("TRAINING_SERVICE_URL", url)
    assert script.parse([]).url == url


def test_the_help_does_not_show_the_address_of_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRAINING_SERVICE_URL", "http://me:secret@host")
    with pytest.raises(SystemExit):
        script.parse(["--help"])
    assert "secret" not in capsys.readouterr().out


def test_a_proxy_that_answers_for_a_service_in_restart_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stream brings lines already, while the status gets a 502; and at its end once more."""
    now = "2025-01-01T00:00:00"
    task = {"task_id": "t", "status": "pending", "progress": 0, "device": "cpu", "created_at": now, "updated_at": now}
    line = {"timestamp": now, "level": "INFO", "message": "任务结束", "status": "completed"}
    log = httpx.Response(
        200, headers={"Content-Type": "text/event-stream"}, text=f"id: 1\ndata: {json.dumps(line)}\n\n"
    )
    gateway = httpx.Response(502, text="<html>")
    ended = httpx.Response(200, json={**task, "status": "completed", "progress": 100})
    answers = [httpx.Response(200, json=task), log, gateway, gateway, ended]
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with TrainingClient("http://h", transport=httpx.MockTransport(lambda _: answers.pop(0))) as client:
        assert script.train(client, {}, Board(Console())).status == "completed"
    assert answers == []
    assert waits == [1]


def test_the_line_to_watch_with_shows_no_secret() -> None:
    with TrainingClient("http://h", token="secret") as client:
        assert script.curl(client, "t") == (
            'curl -N -H "Authorization: Bearer $TRAINING_SERVICE_TOKEN" http://h/api/v2/training/t/logs'
        )


def test_interrupting_a_training_whose_service_is_gone() -> None:
    with TrainingClient(free_url(), sleep=lambda _: None) as client:
        said = script.stop(client, "t", 0, Board(Console()))
    assert said.startswith("Interrupted; training t may go on: The training service at ")


def test_a_lost_stream_is_not_waited_for_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    script.pause(Console(), 0.0)
    assert capsys.readouterr().out == "The log stream is lost; trying again in 0 s\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_its_training(how: signal.Signals, data: list[str], tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, client.demo.local_service as service, test_training_metrics as script\n"
        f"service.APP, script.HOME = pathlib.Path({str(FAKE)!r}), pathlib.Path({str(tmp_path)!r})\n"
        "sys.exit(script.main(sys.argv[1:]))"
    )
    url = free_url()
    with subprocess.Popen(
        [sys.executable, "-c", program, "--url", url, *data],
        env={"FAKE": "endless", "PYTHONPATH": str(Path(script.__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while not (said := process.stdout.readline()).startswith("epoch 1/2"):
            assert said, process.communicate()
        process.send_signal(how)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "Interrupted: training t is cancelled.\n"
    assert "Stopping the training" in output
    assert not answers(url)
