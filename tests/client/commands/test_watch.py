"""`trainctl watch`, `stop` and `resume`: to the end of a task, whatever happens on the way."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from app_refactored import create_app
from client import TrainingClient
from models.schemas import TaskResponse, TaskStatus
from settings import Settings
from tests.client.commands.conftest import Result
from tests.client.commands.terminal import Terminal
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.service_process import APP, ServiceProcess

Run = Callable[..., Result]


def test_plain_lines_until_the_end(trainctl: Run, train: Callable[..., str]) -> None:
    train("plain", epochs=2)
    result = trainctl("watch", "plain")
    assert (result.status, result.error) == (0, "")
    assert [line for line in result.lines if line.startswith("epoch")] == [
        "epoch 1/2: train_loss 1.0000, train_acc 61.00%",
        "epoch 2/2: train_loss 0.5000, train_acc 62.00%",
    ]
    assert result.lines[-1] == "The training is completed."


def test_a_task_that_fails_is_told_by_the_exit_status(trainctl: Run, train: Callable[..., str]) -> None:
    train("fails", epochs=1, status=3, wait=0.2, until_end=False)
    result = trainctl("watch", "fails")
    assert result.status == 1
    assert "exit" in result.lines[-1]


def test_several_tasks_each_with_its_name(trainctl: Run, train: Callable[..., str]) -> None:
    train("first", epochs=1, name="甲", wait=0.2, until_end=False)
    train("second", epochs=1, until_end=False)
    result = trainctl("watch", "甲", "second")
    assert result.status == 0
    assert {"甲: The training is completed.", "second: The training is completed."} <= set(result.lines)


def test_json_has_every_line_with_metrics_and_the_task_at_the_end(trainctl: Run, train: Callable[..., str]) -> None:
    train("for-scripts", epochs=2)
    *lines, task = trainctl("watch", "for-scripts", "--json").objects
    assert [line["metrics"]["train_acc"] for line in lines if "train_acc" in line.get("metrics", {})] == [61.0, 62.0]
    assert (lines[-1]["status"], task["status"], task["task_id"]) == ("completed", "completed", "for-scripts")


def test_stop_and_wait(trainctl: Run, train: Callable[..., str]) -> None:
    train("endless", epochs=1000, wait=0.1, until_end=False)
    result = trainctl("stop", "endless", "--wait")
    assert (result.status, result.lines[-1]) == (0, "endless: cancelled")
    again = trainctl("stop", "endless")
    assert again.status == 5
    assert "has ended" in again.error


def test_stop_tries_every_task_whatever_becomes_of_the_others(
    trainctl: Run, train: Callable[..., str], client: TrainingClient
) -> None:
    train("over", epochs=1)
    for task_id in ("endless-1", "endless-2"):
        train(task_id, epochs=1000, wait=0.1, until_end=False)
    result = trainctl("stop", "over", "endless-1", "nowhere", "endless-2", "endless-1")
    assert result.status == 5
    assert [line.split(":")[0] for line in result.lines] == ["endless-1", "endless-2"]
    has_ended, is_unknown = result.error.splitlines()
    assert "has ended" in has_ended
    assert "'nowhere'" in is_unknown
    assert {client.wait(task_id).status for task_id in ("endless-1", "endless-2")} == {"cancelled"}


def test_stop_and_wait_tells_of_one_that_fails_instead(
    trainctl: Run, client: TrainingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_client: TrainingClient, task_id: str) -> TaskResponse:
        return client.status(task_id).model_copy(update={"status": TaskStatus.FAILED})

    client.start(command=["sleep", "1000"], working_dir=str(tmp_path), device="cpu", task_id="fails-at-last")
    monkeypatch.setattr(TrainingClient, "wait", fail)
    result = trainctl("stop", "fails-at-last", "--wait")
    assert (result.status, result.lines[-1]) == (1, "fails-at-last: failed")


def test_ctrl_c_leaves_the_training_running(
    server: RunningServer, client: TrainingClient, train: Callable[..., str]
) -> None:
    train("goes-on", epochs=1000, wait=0.1, until_end=False)
    with Terminal("watch", "goes-on", url=server.url) as terminal:
        terminal.wait_for("train_loss")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "No longer watching; it goes on. To stop: trainctl stop goes-on" in terminal.text
    assert client.status("goes-on").status == "running"
    client.stop("goes-on")


def test_a_log_that_counts_no_epochs_shows_its_latest_values(server: RunningServer, client: TrainingClient) -> None:
    program = "import time\nfor n in range(9999):\n print(f'loss: 0.{n:04}', flush=True)\n time.sleep(0.05)"
    client.start(command=[sys.executable, "-c", program], working_dir="/", device="cpu", task_id="no-epochs")
    with Terminal("watch", "no-epochs", url=server.url) as terminal:
        terminal.wait_for("running, train_loss 0.00")
        client.stop("no-epochs")
        assert terminal.end() == 1


@pytest.mark.parametrize(("columns", "shows_accuracy"), [(30, False), (80, True)])
def test_a_picture_fits_its_terminal(
    server: RunningServer, client: TrainingClient, train: Callable[..., str], columns: int, shows_accuracy: bool
) -> None:
    task_id = train(f"in-{columns}", epochs=1000, wait=0.05, until_end=False)
    with Terminal("watch", task_id, url=server.url, columns=columns, NO_COLOR="1") as terminal:
        terminal.wait_for("0.0500")  # of epoch 20
        client.stop(task_id)
        assert terminal.end() == 1
    assert ("train_acc" in terminal.text) is shows_accuracy
    picture, _, _ = terminal.text.partition("The training is")
    assert max(map(cell_len, picture.splitlines())) <= columns
    assert not terminal.has_colour


def test_a_restart_of_the_service_is_waited_for(tmp_path: Path, trainer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"STATE_DIR": str(tmp_path / "state"), "ALLOW_COMMANDS": "true"}
    with ServiceProcess(APP, folder=tmp_path, **settings) as service:
        url = service.start().url
        with TrainingClient(url, timeout=30) as client:
            command = [sys.executable, str(trainer), "25", "0", "0.2"]
            client.start(command=command, working_dir=str(tmp_path), device="cpu", task_id="outlives")
        with Terminal("watch", "outlives", url=url, TERM="dumb") as terminal:
            terminal.wait_for("epoch 2/25")
            service.end(signal.SIGKILL)
            terminal.wait_for("trying again")
            with ServiceProcess(APP, folder=tmp_path, **settings, PORT=url.rpartition(":")[2]) as again:
                again.start()
                assert terminal.end() == 0
    epochs = [line for line in terminal.text.splitlines() if line.startswith("epoch")]
    assert [line.split("/")[0] for line in epochs] == [f"epoch {number}" for number in range(1, 26)]


def test_resume_and_watch(trainctl: Run, tmp_path: Path, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ScriptedExecutor()
    scripted = executor.script
    executor.hold()
    server = RunningServer(create_app(Settings(state_dir=tmp_path / "state"), executor))
    try:
        monkeypatch.setenv("TRAINING_SERVICE_URL", server.url)
        with TrainingClient(server.url, timeout=30) as client:
            client.start(**body, task_id="built-in")
        assert trainctl("stop", "built-in", "--wait").status == 0
        executor.script = scripted
        result = trainctl("resume", "built-in", "--watch")
        assert (result.status, result.lines[-1]) == (0, "The training is completed.")
        completed = trainctl("resume", "built-in")
        assert (completed.status, completed.output) == (5, "")
    finally:
        executor.release()
        server.stop()
