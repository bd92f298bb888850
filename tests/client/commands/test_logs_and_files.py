"""`trainctl logs`, `export`, `import`: lines and points out of the service, and a stranger's log into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from client import TrainingClient
from models.schemas import StoredLogEntry
from tests.client.commands.conftest import Result

Run = Callable[..., Result]


@pytest.fixture(scope="module", autouse=True)
def task(train: Callable[..., str]) -> None:
    train("done", epochs=3)


def messages(result: Result) -> list[str]:
    return [line["message"] for line in result.objects]


def test_every_line_in_order(trainctl: Run, client: TrainingClient) -> None:
    assert messages(trainctl("logs", "done", "--json")) == [entry.message for entry in client.history("done")]


def test_the_last_lines(trainctl: Run, client: TrainingClient) -> None:
    everything = [entry.message for entry in client.history("done")]
    assert messages(trainctl("logs", "done", "--json", "--tail", "3")) == everything[-3:]
    assert messages(trainctl("logs", "done", "--json", "--tail", "3", "--after", "1000")) == []
    assert trainctl("logs", "done", "--tail", "0").output == ""


def test_filters(trainctl: Run) -> None:
    found = messages(trainctl("logs", "done", "--json", "--contains", "TRAIN LOSS"))
    assert [message.split(",")[0] for message in found] == [f"Train Loss: {1 / epoch:.4f}" for epoch in (1, 2, 3)]
    levels = {line["level"] for line in trainctl("logs", "done", "--json", "--level", "warning").objects}
    assert levels == {"WARNING"}
    stages = {line["stage"] for line in trainctl("logs", "done", "--json", "--stage", "epoch_start").objects}
    assert stages == {"epoch_start"}


def test_raw_lines_are_as_they_were_printed(trainctl: Run) -> None:
    assert "WARNING: the data is 慢" in trainctl("logs", "done", "--raw").lines
    shown = [line for line in trainctl("logs", "done").lines if "慢" in line]
    assert all(line.split()[3] == "WARNING" for line in shown)


def test_since_a_time(trainctl: Run, client: TrainingClient) -> None:
    everything = list(client.history("done"))
    middle = everything[len(everything) // 2].timestamp
    found = messages(trainctl("logs", "done", "--json", "--since", middle.isoformat()))
    assert found == [entry.message for entry in everything if entry.timestamp >= middle]
    assert messages(trainctl("logs", "done", "--json", "--since", "1d")) == [entry.message for entry in everything]
    later = (datetime.now().astimezone() + timedelta(minutes=5)).isoformat()
    assert messages(trainctl("logs", "done", "--json", "--since", later)) == []
    wrong = trainctl("logs", "done", "--since", "yesterday")
    assert (wrong.status, wrong.output) == (2, "")


def test_follow_ends_with_the_task_and_repeats_nothing(
    trainctl: Run, train: Callable[..., str], client: TrainingClient
) -> None:
    train("live", epochs=5, wait=0.1, until_end=False)
    shown = messages(trainctl("logs", "live", "--follow", "--json"))
    assert shown == [entry.message for entry in client.history("live")]
    assert shown[-1] == "任务结束"


@pytest.mark.parametrize(
    "filters", [("--tail", "0"), ("--contains", "no line has this"), ("--since", "9999-01-01"), ("--tail", "2")]
)
def test_follow_goes_on_behind_the_newest_line_whatever_was_shown_of_those_before(
    trainctl: Run, client: TrainingClient, monkeypatch: pytest.MonkeyPatch, filters: tuple[str, ...]
) -> None:
    stored = list(client.history("done"))
    asked: list[int] = []

    def follow(_client: TrainingClient, _task_id: str, after: int = 0) -> list[StoredLogEntry]:
        asked.append(after)
        return []

    monkeypatch.setattr(TrainingClient, "follow", follow)
    shown = messages(trainctl("logs", "done", "--follow", "--json", *filters))
    assert shown == ([entry.message for entry in stored[-2:]] if filters == ("--tail", "2") else [])
    assert asked == [stored[-1].id]


def test_follow_shows_a_line_that_comes_while_the_stored_ones_are_read_once(
    trainctl: Run, client: TrainingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the last lines had come after the newest one was asked for."""
    stored = list(client.history("done"))
    known = stored[-4]

    def backwards(_client: TrainingClient, _task_id: str, *, page_size: int, **_: object) -> Iterator[StoredLogEntry]:
        return reversed(stored[: stored.index(known) + 1] if page_size == 1 else stored)

    monkeypatch.setattr(TrainingClient, "history_backwards", backwards)
    for options in ((), ("--tail", "1000")):
        assert messages(trainctl("logs", "done", "-f", "--json", *options)) == [entry.message for entry in stored]
    newest_two = messages(trainctl("logs", "done", "-f", "--json", "--tail", "2"))
    assert newest_two == [entry.message for entry in stored[-5:]]


def test_export_to_standard_output_and_into_a_folder(trainctl: Run, tmp_path: Path) -> None:
    result = trainctl("export", "done", "--metrics", "train_loss")
    assert [line.split(",")[:3] for line in result.lines[1:]] == [
        ["train_loss", "1.0", "1.0"],
        ["train_loss", "0.5", "2.0"],
        ["train_loss", "0.3333", "3.0"],
    ]
    assert trainctl("export", "done", "--format", "jsonl", "-o", str(tmp_path)).lines == [str(tmp_path / "done.jsonl")]
    assert len((tmp_path / "done.jsonl").read_text("utf-8").splitlines()) > 3


def test_export_for_tensorboard_makes_the_folder_that_it_wants(
    trainctl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (written,) = trainctl("export", "done", "--format", "tensorboard", "--json").objects
    assert written["file"] == "done/events.out.tfevents.done"
    assert (tmp_path / written["file"]).stat().st_size > 0


@pytest.mark.parametrize(
    ("output", "file"),
    [
        ("runs/tb", "runs/tb/events.out.tfevents.done"),
        ("there", "there/events.out.tfevents.done"),
        ("tfevents-there", "tfevents-there/events.out.tfevents.done"),
        ("events.out.tfevents.mine", "events.out.tfevents.mine"),
    ],
)
def test_what_is_exported_for_tensorboard_is_where_tensorboard_looks(
    trainctl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("there", "tfevents-there"):
        Path(folder).mkdir()
    assert trainctl("export", "done", "--format", "tensorboard", "--output", output).lines == [file]
    assert Path(file).stat().st_size > 0


def test_a_file_in_the_way_of_the_folder_for_tensorboard_is_left(trainctl: Run, tmp_path: Path) -> None:
    file = tmp_path / "tb"
    file.write_text("mine", "utf-8")
    result = trainctl("export", "done", "--format", "tensorboard", "--output", str(file))
    assert (result.status, result.output, file.read_text("utf-8")) == (2, "", "mine")
    assert str(file) in result.error


def test_export_to_a_place_that_is_not_there(trainctl: Run) -> None:
    result = trainctl("export", "done", "-o", "/nowhere/file.csv")
    assert (result.status, result.output) == (2, "")
    assert "/nowhere" in result.error


def test_a_strangers_log_becomes_a_task(
    trainctl: Run, client: TrainingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.log").write_text("Epoch 1/2\nloss: 0.5 Dice: 0.25\nEpoch 2/2\nloss: 0.25 Dice: 0.5\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    result = trainctl(
        "import", "old.log", "--task-id", "old", "--name", "from-2019", "--metric", "dice=Dice: ([0-9.]+)"
    )
    assert (result.status, result.error) == (0, "")
    task = client.status("old")
    assert (task.task_type, task.status, task.name) == ("import", "completed", "from-2019")
    values = task.latest_metrics.model_dump() if task.latest_metrics else {}
    assert (values["train_loss"], values["dice"]) == (0.25, 0.5)


def test_a_log_that_is_not_there(trainctl: Run) -> None:
    result = trainctl("import", "/nowhere.log")
    assert (result.status, result.output) == (2, "")
    assert "/nowhere.log" in result.error
