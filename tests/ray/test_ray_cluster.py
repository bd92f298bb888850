"""The digits, trained on a real cluster of three nodes, through the service and its client."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from client import TrainingClient
from models.schemas import StoredLogEntry, TaskStatus
from tests.service_process import APP, REPOSITORY, ServiceProcess
from tests.trainer.helpers import evaluated_alone, request_for, same, write_digits

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

EPOCHS = 8
CLASSES = 6
WORKERS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of its dashboard."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # Ray calls `python`
    environment = os.environ | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    nodes = subprocess.Popen(
        [sys.executable, "-m", "tests.ray.nodes", str(port)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert nodes.stdout is not None
        address = nodes.stdout.readline().strip()
        assert address.startswith("http://"), "the cluster did not start"
        yield address
    finally:
        kill_tree(psutil.Process(nodes.pid))
        nodes.communicate()


def kill_tree(root: psutil.Process) -> None:
    processes = [*root.children(recursive=True), root]
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, 30)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=21, validation=7, classes=CLASSES)


@contextmanager
def service(folder: Path, cluster: str, **environment: str) -> Iterator[tuple[ServiceProcess, TrainingClient]]:
    settings = {"RAY_ADDRESS": cluster, "ALLOW_COMMANDS": "true", "OMP_NUM_THREADS": "1", **environment}
    with ServiceProcess(APP, folder=folder, **settings) as process:
        process.start()
        with TrainingClient(process.url) as client:
            yield process, client


def training(digits: Path, save_path: Path, **changes: Any) -> dict[str, Any]:
    request = request_for(digits, num_classes=CLASSES, num_epochs=EPOCHS, learning_rate=1e-3)
    fields = {"save_path": str(save_path), "executor": "ray", "num_workers": WORKERS}
    return request.model_dump(mode="json", exclude_unset=True) | fields | changes


def lines_of(client: TrainingClient, task_id: str) -> list[StoredLogEntry]:
    lines = list(client.follow(task_id))
    assert [line.id for line in lines] == list(range(1, len(lines) + 1))
    return lines


def said(lines: list[StoredLogEntry]) -> list[str]:
    """What the trainer said, without what depends on the time."""
    messages = [re.sub(r"finished in .*", "finished", line.message) for line in lines]
    begun = next(number for number, message in enumerate(messages) if message.startswith("Training shufflenet"))
    return [message for message in messages[begun:] if ", Step [" not in message]


def learned(lines: list[StoredLogEntry]) -> dict[tuple[float, str], float | None]:
    """Each metric of each epoch, by its latest attempt."""
    return {
        (epoch, name): value
        for entry in lines
        if entry.metrics and entry.step is None and (epoch := entry.metrics.get("epoch")) is not None
        for name, value in entry.metrics.items()
    }


def wait_for_epoch(client: TrainingClient, task_id: str, epoch: int) -> None:
    for entry in client.follow(task_id):
        if entry.message.startswith(f"Epoch [{epoch}/"):
            return
    raise AssertionError("it ended before")


def ranks(task_id: str) -> dict[int, psutil.Process]:
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("TRAINING_TASK_ID") == task_id and "RANK" in environment:
                found[int(environment["RANK"])] = process
        except psutil.Error:
            continue
    return found


def node_of(process: psutil.Process) -> psutil.Process:
    while "raylet" not in Path(process.exe()).name:
        parent = process.parent()
        assert parent is not None
        process = parent
    return process


@pytest.fixture(scope="module")
def under_torchrun(
    digits: Path, cluster: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[StoredLogEntry]]:
    folder = tmp_path_factory.mktemp("torchrun")
    with service(folder, cluster) as (_, client):
        task = client.start(**training(digits, folder, executor="process", task_id="torchrun"))
        lines = lines_of(client, task.task_id)
        assert client.status(task.task_id).status is TaskStatus.COMPLETED, lines[-3:]
    return folder / "torchrun", lines


def test_two_workers_on_two_nodes_say_what_two_say_under_torchrun_and_one_finds_the_same_metrics(
    under_torchrun: tuple[Path, list[StoredLogEntry]], digits: Path, cluster: str, tmp_path: Path
) -> None:
    body = training(digits, tmp_path, task_id="digits")
    with service(tmp_path, cluster) as (_, client):
        client.start(**body)
        wait_for_epoch(client, "digits", 1)
        nodes = {node_of(process).pid for process in ranks("digits").values()}
        lines = lines_of(client, "digits")
        assert client.status("digits").status is TaskStatus.COMPLETED, lines[-3:]
    assert len(nodes) == WORKERS
    whole, whole_lines = under_torchrun
    assert said(lines) == said(whole_lines)
    one, other = (torch.load(folder / "last.pt", weights_only=True) for folder in (whole, tmp_path / "digits"))
    assert same(one["state_dict"], other["state_dict"])

    alone = evaluated_alone(tmp_path / "digits/last.pt", request_for(digits, num_classes=CLASSES))
    assert sum(each.support for each in alone.classes) == 7 * CLASSES
    assert {name: other["metrics"][name] for name in alone.as_metrics()} == pytest.approx(alone.as_metrics(), abs=1e-6)


def test_a_restart_of_the_service_costs_and_repeats_no_line(
    under_torchrun: tuple[Path, list[StoredLogEntry]], digits: Path, cluster: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        process, client = stack.enter_context(service(tmp_path, cluster))
        client.start(**training(digits, tmp_path, task_id="restarted"))
        wait_for_epoch(client, "restarted", 2)
        process.end(signal.SIGKILL)
        _, client = stack.enter_context(service(tmp_path, cluster))
        lines = lines_of(client, "restarted")
        status = client.status("restarted")
    assert status.status is TaskStatus.COMPLETED, lines[-3:]
    assert status.attempt is None
    assert said(lines) == said(under_torchrun[1])


def test_a_command_runs_on_each_worker_and_ends_with_what_one_of_them_ended(cluster: str, tmp_path: Path) -> None:
    script = """
        if [ "$RANK" = 1 ]; then until [ -e spoken ]; do sleep 0.1; done; fi  # its end is that of the other one too
        echo "rank $RANK of $WORLD_SIZE, $WORD"; echo "Epoch [1/1], Train Loss: 0.5"; touch spoken
        exit $((7 * RANK))
    """
    with service(tmp_path, cluster, EXECUTOR="ray") as (_, client):
        task = client.start(
            command=["bash", "-c", script],
            working_dir=str(tmp_path),
            env={"WORD": "hello"},
            device="cpu",
            num_workers=WORKERS,
        )
        messages = [line.message for line in client.follow(task.task_id)]
        status = client.status(task.task_id)
    assert "rank 0 of 2, hello" in messages
    assert (status.status, status.reason) == (TaskStatus.FAILED, "exit_code_7")
    assert status.latest_metrics is not None
    assert status.latest_metrics.train_loss == 0.5
    assert not list(tmp_path.glob(".ray/*/spec.json"))


def test_a_stop_ends_every_worker(digits: Path, cluster: str, tmp_path: Path) -> None:
    with service(tmp_path, cluster) as (_, client):
        client.start(**training(digits, tmp_path, task_id="stopped", num_epochs=100_000))
        wait_for_epoch(client, "stopped", 2)
        workers = ranks("stopped")
        client.stop("stopped")
        list(client.follow("stopped"))
        assert client.status("stopped").status is TaskStatus.CANCELLED
    psutil.wait_procs(workers.values(), 60)
    assert sorted(workers) == list(range(WORKERS))
    assert not any(worker.is_running() for worker in workers.values())


def test_a_node_that_is_killed_costs_the_epoch_that_was_running_and_nothing_else(
    under_torchrun: tuple[Path, list[StoredLogEntry]], digits: Path, cluster: str, tmp_path: Path
) -> None:
    """Last, since the node is missing afterwards."""
    with service(tmp_path, cluster) as (_, client):
        client.start(**training(digits, tmp_path, task_id="killed"))
        wait_for_epoch(client, "killed", 2)
        nodes = [node_of(process) for process in ranks("killed").values()]
        victim = next(node for node in nodes if "--head" not in node.cmdline())
        kill_tree(victim)
        lines = lines_of(client, "killed")
        status = client.status("killed")
    assert (status.status, status.attempt) == (TaskStatus.COMPLETED, 2), lines[-3:]
    whole, whole_lines = under_torchrun
    assert learned(lines) == pytest.approx(learned(whole_lines), abs=0, rel=0)
    for attempt in (None, 2):
        begun = [line.message for line in lines if line.attempt == attempt and " started" in line.message]
        assert len(set(begun)) == len(begun)
    one, other = (torch.load(folder / "last.pt", weights_only=True) for folder in (whole, tmp_path / "killed"))
    assert same(one["state_dict"], other["state_dict"])
