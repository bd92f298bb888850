"""What it costs to poll a task's status, idle and beside a training, against a plain route that answers the same.

    python -m benchmarks.status [--rounds 5] [--seconds 5] [--image-size 64] [--quick]

Two servers: the service, and a plain FastAPI application whose route has a response model of the same fields, with
uvicorn's settings from the same place (`benchmarks/peers/plain_status.py`). Each is asked by a process of its own
(`benchmarks/load.py`), in turn:

- idle, and while it trains resnet18 on all cores in a thread of its own: the most requests a second over eight
  connections, and the delays at a hundred requests a second, from the time at which each was due;
- how fast it trains alone, and while it is asked a hundred times a second.

The status has every metric that the published document names. The task is live, as the one that is polled is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import load_after, machine, median_and_range
from benchmarks.load import load, loading
from client import TrainingClient
from client.demo.digits import digit_folders
from tests.service_process import APP, ServiceProcess

POLLS = 100
"""A second: a hundred viewers that ask once a second."""
IMAGES = 1437
LOG = """\
Epoch [3/10] started
Epoch [3/10], Step [40/180], Train Loss: 0.5234, 312.4 images/s, ETA: 12s
Train Loss: 0.5234, Train Accuracy: 82.45%
Validation Loss: 0.6123, Validation Accuracy: 78.92%
Validation macro_F1: 0.7845, micro_F1: 0.7892, mAP: 0.8123
Validation macro_Precision: 0.8012, macro_Recall: 0.7789, micro_Precision: 0.7892, micro_Recall: 0.7892
Validation Top-k Accuracy: {'top1': 78.92, 'top3': 92.34, 'top5': 96.78}
Learning rate: 0.0001
"""


class Server(ABC):
    """One that answers statuses, and can train meanwhile."""

    def __init__(self, name: str, process: ServiceProcess, path: str) -> None:
        self.name = name
        self.base = process.url
        self.status = f"{process.url}{path}"
        self.http = httpx.Client(base_url=process.url, timeout=60)

    @abstractmethod
    def start(self, request: dict[str, Any]) -> None:
        """Return once the training is in its first epoch."""

    @abstractmethod
    def stop(self) -> None:
        """Return once it has ended."""

    @abstractmethod
    def seconds(self) -> float:
        """Wait until it has ended of itself: the seconds from the start of its first epoch to its last word."""


class Service(Server):
    task_id: str

    def start(self, request: dict[str, Any]) -> None:
        self._client = TrainingClient(self.base, timeout=60)
        self.task_id = self._client.start(**request).task_id
        next(line for line in self._client.follow(self.task_id) if line.stage == "epoch_start")

    def stop(self) -> None:
        self._client.stop(self.task_id)
        self._client.wait(self.task_id)

    def seconds(self) -> float:
        task = self._client.wait(self.task_id)
        assert task.status == "completed", task
        lines = list(self._client.history(self.task_id))
        first = next(line for line in lines if line.stage == "epoch_start")
        return (lines[-1].timestamp - first.timestamp).total_seconds()


class Plain(Server):
    def start(self, request: dict[str, Any]) -> None:
        self.http.post("/train", json=request).raise_for_status()
        self._until(lambda training: training["epochs"] > 0)

    def stop(self) -> None:
        self.http.post("/stop").raise_for_status()

    def seconds(self) -> float:
        return float(self._until(lambda training: not training["runs"])["seconds"])

    def _until(self, is_so: Any) -> dict[str, Any]:
        while True:
            training: dict[str, Any] = self.http.get("/train").raise_for_status().json()
            if is_so(training):
                return training
            time.sleep(0.1)


Figures = defaultdict[tuple[str, str], list[float]]
"""By what was measured, and of whom."""


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--epochs", type=int, default=3, help="of the trainings whose speed is compared")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="one round of two seconds, images of 32 pixels")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.epochs, arguments.image_size = 1, 2.0, 2, 32
    print(machine("fastapi", "uvicorn", "pydantic", "torch"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with ServiceProcess(APP, folder=folder, STATE_DIR=str(folder / "state")).start() as service:
            task_id = follow(service.url, folder)
            answer = folder / "answer.json"
            answer.write_bytes(httpx.get(f"{service.url}/api/v2/training/{task_id}").raise_for_status().content)
            print(f"a status of {answer.stat().st_size} bytes")
            program = "benchmarks.peers.plain_status"
            with ServiceProcess("-m", program, str(answer), folder=folder).start() as plain:
                servers = [
                    Service("service", service, f"/api/v2/training/{task_id}"),
                    Plain("plain, async def", plain, f"/async/{task_id}"),
                    Plain("plain, def", plain, f"/threaded/{task_id}"),
                ]
                measure(servers, folder, arguments)


def follow(url: str, folder: Path) -> str:
    """A live task that nothing trains."""
    log = folder / "train.log"
    log.write_text(LOG)
    with TrainingClient(url) as client:
        task_id = client.import_log(log, follow=True).task_id
        while (client.status(task_id, ["learning_rate"]).latest_metrics or log) == log:
            time.sleep(0.05)
        return task_id


def measure(servers: list[Server], folder: Path, arguments: argparse.Namespace) -> None:
    train_path, val_path = digit_folders(folder / "digits")
    request = {
        "model": "resnet18",
        "num_classes": 10,
        "train_path": str(train_path),
        "val_path": str(val_path),
        "save_path": str(folder / "runs"),
        "num_epochs": arguments.epochs,
        "image_size": arguments.image_size,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "pretrained": False,
        "device": "cpu",
    }
    figures: Figures = defaultdict(list)
    for server in servers[:2]:
        warm_up(server, request)
    for number in range(arguments.rounds):
        in_turn = servers if number % 2 == 0 else servers[::-1]
        for server in in_turn:
            ask(server, "idle", arguments.seconds, figures)
        for server in in_turn:
            server.start({**request, "num_epochs": 10_000})
            ask(server, "training", arguments.seconds, figures)
            server.stop()
        for server in [each for each in in_turn if each in servers[:2]]:
            for is_asked in (False, True) if number % 2 else (True, False):
                train(server, request, figures, is_asked=is_asked)
        print(f"round {number + 1} of {arguments.rounds}")
    report(servers, figures, arguments)


def warm_up(server: Server, request: dict[str, Any]) -> None:
    """Torch is imported, and the first requests are over."""
    server.start({**request, "num_epochs": 1})
    server.seconds()
    load(server.status, 1)


def ask(server: Server, when: str, seconds: float, figures: Figures) -> None:
    most, fixed = load(server.status, seconds), load(server.status, seconds, rate=POLLS)
    figures[f"{when}: requests/s, 8 connections", server.name].append(most.rate)
    figures[f"{when}: p99 of these, ms", server.name].append(most.p99)
    figures[f"{when}: p50 at {POLLS}/s, ms", server.name].append(fixed.p50)
    figures[f"{when}: p99 at {POLLS}/s, ms", server.name].append(fixed.p99)


def train(server: Server, request: dict[str, Any], figures: Figures, *, is_asked: bool) -> None:
    server.start(request)
    with loading(server.status, rate=POLLS) if is_asked else nullcontext():
        speed = IMAGES * request["num_epochs"] / server.seconds()
    figures[f"images/s, asked {POLLS} times a second" if is_asked else "images/s alone", server.name].append(speed)


def report(servers: list[Server], figures: Figures, arguments: argparse.Namespace) -> None:
    names = [server.name for server in servers]
    print(f"\nmedian (range) of {arguments.rounds} rounds; ratio: service to plain async def")
    print(f"{'':32}" + "".join(f"{name:>30}" for name in names) + f"{'ratio':>8}")
    for what in dict.fromkeys(what for what, _ in figures):
        found = [figures.get((what, name), []) for name in names]
        ratio = statistics.median(ours / plain for ours, plain in zip(found[0], found[1], strict=True))
        cells = "".join(f"{median_and_range(values) if values else '':>30}" for values in found)
        print(f"{what:32}{cells}{ratio:8.2f}")
    for name in names[:2]:
        alone, asked = (figures[what, name] for what in ("images/s alone", f"images/s, asked {POLLS} times a second"))
        lost = statistics.median(100 * (1 - few / many) for many, few in zip(alone, asked, strict=True))
        print(f"training speed lost at {POLLS} requests/s, {name}: {lost:.1f} %")
    print(load_after())


if __name__ == "__main__":
    main()
