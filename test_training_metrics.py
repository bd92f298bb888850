"""Start a training, watch its log and its metrics live, and show how it ended.

    python test_training_metrics.py

needs nothing else: it starts a service if none runs, and trains on small images of handwritten digits.
With data of your own:

    python test_training_metrics.py --train-path /data/train --val-path /data/val --num-epochs 10

Under pytest the same functions are one test of everything together, with a real service.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from client import ServiceError, ServiceUnreachable, TrainingClient
from client.demo.digits import digit_folders
from client.demo.local_service import NoServiceError, free_url, service_at
from client.display import Board, PlainBoard, board_for, printable, say, shown
from client.patience import until_answered
from client.training_client import is_loopback
from models.schemas import StoredLogEntry, TaskResponse, TaskStatus

HOME = Path(__file__).resolve().parent / "demo"
LOCAL = "http://127.0.0.1:8000"

DEMO: dict[str, Any] = {
    "model": "resnet18",
    "num_classes": 10,
    "image_size": 32,
    "batch_size": 64,
    "num_epochs": 8,
    "learning_rate": 1e-3,
    "hflip": False,  # a mirrored digit is another sign
    "pretrained": False,
    "device": "cpu",
}
"""The training that runs when no data is given. With data of your own, the service's defaults hold."""

METRICS = (
    *("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "macro_f1", "micro_f1", "mAP"),
    *("top1_acc", "top3_acc", "top5_acc", "precision", "recall", "learning_rate", "best_acc"),
)
"""Every metric that the change log documents."""


class DemoError(RuntimeError):
    """The run cannot start, or did not end well; the message is the one sentence to show."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status is 0, or 1 when something failed, or 130 after Ctrl-C."""
    args = parse(arguments)
    console = Console()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # log lines may be Chinese, the terminal not
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended is like Ctrl-C: stop politely
    try:
        with TrainingClient(args.url, token=args.token, sleep=partial(pause, console)) as client:
            request = training_request(args)
            with service_at(args.url, HOME / "state", token=args.token, say=partial(say, console)) as own_service:
                with board_for(console) as board:
                    task = train(client, request, board)
                report(console, client, task, request)
            if own_service:
                again = f"STATE_DIR={HOME / 'state'} python app_refactored.py"
                say(console, f"The service has ended with this run. To look again: {again}")
    except (DemoError, NoServiceError, ServiceError, ServiceUnreachable, OSError, ValueError) as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(printable(str(interrupt)) or "Interrupted.", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options are named like the fields of the request; one that is not given is not sent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    url = os.environ.get("TRAINING_SERVICE_URL") or LOCAL  # an empty setting is none, as for trainctl
    said = f"the service [$TRAINING_SERVICE_URL, {LOCAL}]"  # not its value, which may hold a password
    parser.add_argument("--url", default=url, help=said)
    token = os.environ.get("TRAINING_SERVICE_TOKEN")
    parser.add_argument("--token", default=token, help="if the service wants one ($TRAINING_SERVICE_TOKEN)")
    parser.add_argument("--train-path", help="folder with one sub-folder of images per class; default: digits")
    parser.add_argument("--val-path", help="the same, with the images to validate on")
    parser.add_argument("--num-classes", type=int, help="default: the number of folders in --train-path")
    parser.add_argument("--model", help="a torchvision network, default resnet18")
    parser.add_argument("--num-epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--device", help="cpu, cuda or cuda:N")
    parser.add_argument("--save-path", help="where checkpoints go, default demo/runs")
    return parser.parse_args(arguments)


def training_request(args: argparse.Namespace) -> dict[str, Any]:
    """The body of `POST /api/v2/training/start`; makes the demonstration's data if none is given."""
    given = {name: value for name, value in vars(args).items() if name not in {"url", "token"} and value is not None}
    if not is_loopback(httpx.URL(args.url).host):
        if not {"train_path", "val_path", "num_classes", "save_path"} <= given.keys():
            raise DemoError(
                "Give --train-path, --val-path, --num-classes and --save-path as they are on the service's machine."
            )
        return {"model": DEMO["model"], **given}
    for name in {"train_path", "val_path", "save_path"} & given.keys():
        given[name] = str(Path(given[name]).absolute())  # the service may run in another folder
    request = {"save_path": str(HOME / "runs"), **given}
    match given:
        case {"train_path": folder, "val_path": _}:
            classes = sum(not each.name.startswith(".") for each in Path(folder).glob("*/"))  # as the service counts
            if "num_classes" not in given and not classes:
                raise DemoError(f"{folder} is not there, or has no sub-folders: it needs one for each class.")
            return {"model": DEMO["model"], "num_classes": classes, **request}
        case {"train_path": _} | {"val_path": _}:
            raise DemoError("Give --train-path and --val-path together, or neither.")
        case _:
            return {**DEMO, **digits(HOME / "data"), **request}


def digits(folder: Path) -> dict[str, str]:
    """The paths of the demonstration's data."""
    try:
        train_path, val_path = digit_folders(folder)
    except ModuleNotFoundError as missing:
        raise DemoError(
            f"The digits come with scikit-learn, and there is no {missing.name}: pip install scikit-learn, "
            "or give --train-path and --val-path."
        ) from missing
    return {"train_path": str(train_path), "val_path": str(val_path)}


def train(client: TrainingClient, request: dict[str, Any], board: Board) -> TaskResponse:
    """Start a training and show it until it is over; Ctrl-C stops it first.

    Everything on the board comes from the log stream, which brings each line once, with the metrics that
    the service read from it; the status, asked for once a second at most, adds the progress in percent.
    """
    task = client.start(**request)
    task_id, last_line, asked = task.task_id, 0, 0.0
    try:
        for warning in task.warnings or ():
            say(board.console, f"Warning: {warning}")
        say(board.console, f"Training {task_id} on {task.device}; watch it from elsewhere: {curl(client, task_id)}")
        board.update(task)
        for entry in client.follow(task_id):
            last_line = entry.id
            board.add(entry)
            if time.monotonic() - asked > 1:
                asked = time.monotonic()
                with suppress(ServiceError, ServiceUnreachable):  # the stream will take care of that
                    board.update(client.status(task_id))
    except KeyboardInterrupt:
        say(board.console, "Stopping the training; Ctrl-C again to leave it.")
        raise KeyboardInterrupt(stop(client, task_id, last_line, board)) from None
    say_so = partial(pause, board.console, what="The service does not answer")
    task = until_answered(partial(client.status, task_id), sleep=say_so)
    board.update(task)
    return task


def stop(client: TrainingClient, task_id: str, last_line: int, board: Board) -> str:
    """Stop a training, wait until it has ended, and say so; a service that is gone must not hold Ctrl-C up."""
    try:
        with suppress(ServiceError):  # it may be over already
            client.stop(task_id)
        for entry in client.follow(task_id, after=last_line):
            board.add(entry)
        return f"Interrupted: training {task_id} is {client.status(task_id).status}."
    except (ServiceError, ServiceUnreachable) as gone:
        return f"Interrupted; training {task_id} may go on: {gone}"


def report(console: Console, client: TrainingClient, task: TaskResponse, request: dict[str, Any]) -> None:
    """Say how the training ended. Raises `DemoError` where that is not well."""
    if task.status is not TaskStatus.COMPLETED:
        raise DemoError(f"Training {task.task_id} {task.status}: {task.error or task.reason or 'its log says why'}")
    latest = task.latest_metrics.model_dump() if task.latest_metrics else {}
    units = task.units or {}
    table = Table("metric", "value", title=f"{request['model']}, {task.status}")
    for name in METRICS:
        table.add_row(name, shown(name, latest.get(name), units.get(name)))
    console.print(table)
    say(console, f"Checkpoint  {Path(request['save_path'], task.name or task.task_id, 'best.pt')}")
    say(console, f"Status      {client.shown_url}/api/v2/training/{task.task_id}")
    say(console, f"Log         {client.shown_url}/api/v2/training/{task.task_id}/logs")
    say(console, f"To watch    {curl(client, task.task_id)}")


def curl(client: TrainingClient, task_id: str) -> str:
    header = ' -H "Authorization: Bearer $TRAINING_SERVICE_TOKEN"' if client.has_token else ""
    return f"curl -N{header} {client.shown_url}/api/v2/training/{task_id}/logs"


def pause(console: Console, seconds: float, what: str = "The log stream is lost") -> None:
    """How the client waits before it takes up a lost stream again, or asks again: not in silence."""
    say(console, f"{what}; trying again in {seconds:.0f} s")
    time.sleep(seconds)


class Recorder(PlainBoard):
    """Remembers every line that the stream brought."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.entries: list[StoredLogEntry] = []

    def add(self, entry: StoredLogEntry) -> None:
        self.entries.append(entry)
        super().add(entry)


def test_training_shows_every_documented_metric(tmp_path: Path) -> None:
    url, state = free_url(), tmp_path / "state"
    unset = dict.fromkeys(("API_TOKENS", "DATA_ROOTS", "SAVE_ROOTS"), "")  # whoever runs it may have them set
    environment = {**unset, "DATABASE_URL": f"sqlite:///{state / 'training.db'}"}
    short = {"num_epochs": 2, "batch_size": 256}
    request = {**DEMO, **short, **digits(tmp_path / "data"), "save_path": str(tmp_path / "runs")}
    with service_at(url, state, environment=environment), TrainingClient(url) as client:
        with Recorder(Console()) as board:
            task = train(client, request, board)
        report(board.console, client, task, request)
        again = list(client.follow(task.task_id))

    assert task.status is TaskStatus.COMPLETED
    assert task.progress == 100
    assert task.latest_metrics is not None
    values = task.latest_metrics.model_dump()
    assert [name for name in METRICS if values[name] is None] == []
    assert [entry.id for entry in board.entries] == list(range(1, len(board.entries) + 1))
    assert (board.entries[-1].status, board.entries[-1].message) == (TaskStatus.COMPLETED, "任务结束")
    assert again == board.entries


if __name__ == "__main__":
    sys.exit(main())
