"""Accuracies that a foreign log prints as fractions, beside those of logs that print percent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client import TrainingClient
from tests.client.commands.conftest import Result
from tests.client.commands.terminal import Terminal
from tests.running_server import RunningServer

Run = Callable[..., Result]

FRACTIONS = """\
Epoch 1/2 - loss: 0.5000 - acc: 0.5000 - val_loss: 0.6000 - val_accuracy: 0.2500 - best_acc: 0.2500
Epoch 2/2 - loss: 0.4000 - acc: 0.6000 - val_loss: 0.5000 - val_accuracy: 0.7500 - best_acc: 0.7500
"""
PERCENT = "Epoch 1/1\nval_accuracy: 14.52%\n"


@pytest.fixture(scope="module", autouse=True)
def logs(client: TrainingClient, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("logs")
    for task_id, text in (("fractions", FRACTIONS), ("percent", PERCENT)):
        file = folder / f"{task_id}.log"
        file.write_text(text, encoding="utf-8")
        client.import_log(str(file), task_id=task_id)
        client.wait(task_id)


def test_status_and_list_show_a_fraction_as_percent(trainctl: Run) -> None:
    shown = dict(line.split(maxsplit=1) for line in trainctl("status", "fractions").lines if line)
    assert (shown["val_acc"], shown["best_acc"], shown["val_loss"]) == ("75.00%", "75.00%", "0.5000")
    head, *rows = trainctl("list", "--metrics", "val_acc").lines
    assert {row.split()[0]: row[head.index("val_acc") :].split()[0] for row in rows} == {
        "fractions": "75.00%",
        "percent": "14.52%",
    }


def test_json_keeps_the_number_of_the_log(trainctl: Run) -> None:
    (task,) = trainctl("status", "fractions", "--json").objects
    assert (task["latest_metrics"]["val_acc"], task["units"]["val_acc"]) == (0.75, "fraction")


def test_sorted_by_an_accuracy_all_logs_have_one_unit(trainctl: Run) -> None:
    found = trainctl("list", "--json", "--sort", "val_acc").objects
    assert [task["task_id"] for task in found] == ["fractions", "percent"]


def test_watch_shows_a_fraction_as_percent(trainctl: Run) -> None:
    lines = [line for line in trainctl("watch", "fractions", "--metrics", "val_acc").lines if line.startswith("epoch")]
    assert lines == ["epoch 1/2: val_acc 25.00%", "epoch 2/2: val_acc 75.00%"]


def test_compare_shows_every_accuracy_as_percent(trainctl: Run) -> None:
    lines = trainctl("compare", "fractions", "percent", "--metrics", "val_acc").lines
    assert next(line for line in lines if line.startswith("val_acc")).split() == [
        *("val_acc", "75.00%", "@2", "*"),
        *("14.52%", "@1"),
    ]


def test_watch_knows_the_unit_of_a_training_that_had_printed_nothing(trainctl: Run, client: TrainingClient) -> None:
    program = f"import time\nfor line in {FRACTIONS.splitlines()}:\n time.sleep(0.5)\n print(line, flush=True)"
    client.start(command=[sys.executable, "-c", program], working_dir="/", device="cpu", task_id="new")
    lines = [line for line in trainctl("watch", "new", "--metrics", "val_acc").lines if line.startswith("epoch")]
    assert lines == ["epoch 1/2: val_acc 25.00%", "epoch 2/2: val_acc 75.00%"]


def test_pictures_show_a_fraction_as_percent(server: RunningServer, client: TrainingClient, tmp_path: Path) -> None:
    release = tmp_path / "release"
    program = (
        "import pathlib, time\n"
        f"for line in {FRACTIONS.splitlines()}: print(line, flush=True)\n"
        f"while not pathlib.Path({str(release)!r}).exists(): time.sleep(0.05)"
    )
    ids = ("drawn", "drawn-too")
    for task_id in ids:
        client.start(command=[sys.executable, "-c", program], working_dir="/", device="cpu", task_id=task_id)
    with (
        Terminal("watch", ids[0], url=server.url) as alone,
        Terminal("watch", *ids, url=server.url, columns=200) as rows,
    ):
        for terminal in (alone, rows):
            terminal.wait_for("75.00%")
        release.touch()
        assert (alone.end(), rows.end()) == (0, 0)
    assert "The training is completed, best accuracy 75.00%." in alone.text
    assert "0.75%" not in alone.text + rows.text
