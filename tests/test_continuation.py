"""Trainings that are cut short end as if they had not been; trainings that are not cut short lose nothing."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from client import TrainingClient
from models.schemas import StoredLogEntry
from tests.service_process import APP, ServiceProcess
from tests.trainer.helpers import request_for, same, write_digits

EPOCHS = 3
NETWORKS = (("mnasnet0_5", "adamw"), ("squeezenet1_1", "sgd"))
"""The first one normalises batches and drops out, the second one drops out."""


@contextmanager
def service(folder: Path, **environment: str) -> Iterator[tuple[ServiceProcess, TrainingClient]]:
    settings = {"ALLOW_COMMANDS": "true", "OMP_NUM_THREADS": "1", **environment}
    with ServiceProcess(APP, folder=folder, **settings) as process:
        process.start()
        with TrainingClient(process.url) as client:
            yield process, client


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=8, validation=2, classes=6)


def training(digits: Path, save_path: Path, model: str, optimizer: str, executor: str) -> dict[str, Any]:
    request = request_for(digits, num_classes=6, num_epochs=EPOCHS, model=model, optimizer=optimizer)
    return request.model_dump(mode="json", exclude_unset=True) | {
        "save_path": str(save_path),
        "learning_rate": 1e-3,
        "device": "cpu",
        "executor": executor,
    }


def trainer_of(task_id: str) -> psutil.Process:
    """The process of a built-in training."""
    (found,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "trainer" in (process.info["cmdline"] or ())
        and any(task_id in Path(part).parts for part in process.info["cmdline"])
    ]
    return found


def learned(lines: list[StoredLogEntry]) -> dict[tuple[float, str], float | None]:
    """Each metric of each epoch, by its latest attempt, without those of single steps."""
    return {
        (epoch, name): value
        for entry in lines
        if entry.metrics and entry.step is None and (epoch := entry.metrics.get("epoch")) is not None
        for name, value in entry.metrics.items()
    }


def checkpoint(task: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(task / name, weights_only=True)
    return {key: value for key, value in content.items() if key != "request"}  # which has the name of the task


@pytest.mark.parametrize("executor", ["thread", "process"])
@pytest.mark.parametrize(("model", "optimizer"), NETWORKS)
def test_a_training_that_is_cut_short_ends_bit_for_bit_as_if_it_had_not_been(
    executor: str, model: str, optimizer: str, digits: Path, tmp_path: Path
) -> None:
    body = training(digits, tmp_path, model, optimizer, executor)
    with service(tmp_path) as (process, client):
        client.start(**body, task_id="whole")
        assert client.wait("whole").status == "completed"
        client.start(**body, task_id="cut")
        for entry in client.follow("cut"):
            if entry.message == f"Epoch [2/{EPOCHS}] started":
                break
        if executor == "thread":
            process.end(signal.SIGKILL)
        else:
            trainer_of("cut").kill()
            assert client.wait("cut").reason == "killed_by_signal_9"
            assert client.resume("cut").attempt == 2
            client.wait("cut")
    with service(tmp_path) as (_process, client):
        cut = client.wait("cut")
        assert (cut.status, cut.progress, cut.attempt) == ("completed", 100, 2)
        lines = {task_id: list(client.history(task_id)) for task_id in ("whole", "cut")}
    assert [entry.id for entry in lines["cut"]] == list(range(1, len(lines["cut"]) + 1))
    assert f"Epoch [1/{EPOCHS}] started" not in [entry.message for entry in lines["cut"] if entry.attempt == 2]
    assert learned(lines["cut"]) == learned(lines["whole"])
    for name in ("last.pt", "best.pt"):
        assert same(checkpoint(tmp_path / "whole", name), checkpoint(tmp_path / "cut", name))


class Follower:
    """A viewer that stays through every restart of the service."""

    def __init__(self, url: str, task_id: str) -> None:
        self.entries: list[StoredLogEntry] = []
        self._client = TrainingClient(url)
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._follow, args=(task_id,))
        self._thread.start()

    def _follow(self, task_id: str) -> None:
        for entry in self._client.follow(task_id):
            with self._came:
                self.entries.append(entry)
                self._came.notify_all()

    def wait_for(self, text: str) -> None:
        with self._came:
            assert self._came.wait_for(lambda: any(text in each.message for each in self.entries), 60), text

    def see_the_end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._client.close()


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return str(found.getsockname()[1])


@pytest.mark.parametrize("ends_alone", [False, True], ids=["a service is there at the end", "none is there"])
def test_a_process_lives_through_three_kills_of_the_service_and_its_viewer_sees_every_line_once(
    ends_alone: bool, tmp_path: Path
) -> None:
    steps = 400
    (tmp_path / "train.py").write_text(
        "import pathlib, sys, time\n"
        f"for n in range(1, {steps} + 1):\n"
        "    print(f'Step {n}, Train Loss: {1 / n}', flush=True)\n"
        "    time.sleep(0.005)\n"
        "    while n in (100, 200, 300) and not pathlib.Path(f'seen-{n}').exists():\n"
        "        time.sleep(0.01)\n"
        "pathlib.Path('over').touch()\n"
        "sys.exit(3)\n"
    )
    port = free_port()
    with ExitStack() as viewers:
        follower = None
        for part in (100, 200, 300):
            with service(tmp_path, PORT=port) as (process, client):
                if follower is None:
                    command = {"command": [sys.executable, "train.py"], "working_dir": tmp_path, "device": "cpu"}
                    client.start(**command, task_id="t")
                    follower = Follower(process.url, "t")
                    viewers.callback(follower.see_the_end)
                follower.wait_for(f"Step {part - 50},")
                if part != 300 or ends_alone:
                    (tmp_path / f"seen-{part}").touch()  # it prints on while the service dies
                process.end(signal.SIGKILL)
        if ends_alone:
            _wait_for_file(tmp_path / "over")
        with service(tmp_path, PORT=port) as (_process, client):
            (tmp_path / "seen-300").touch()
            task = client.wait("t")
            assert follower is not None
            follower.see_the_end()
            stored = list(client.history("t"))
    assert (task.status, task.reason) == ("failed", "exit_code_3")
    assert follower.entries == stored
    assert [entry.id for entry in stored] == list(range(1, len(stored) + 1))
    printed = [entry.message.partition(",")[0] for entry in stored if entry.message.startswith("Step ")]
    assert printed == [f"Step {number}" for number in range(1, steps + 1)]


def _wait_for_file(path: Path) -> None:
    """The trainer makes it as its last act; a pipe would be held open by whoever it starts."""
    waiting = threading.Event()
    for _ in range(3000):
        if path.exists():
            return
        waiting.wait(0.02)
    raise AssertionError(f"{path} did not come: {list(path.parent.iterdir())}")
