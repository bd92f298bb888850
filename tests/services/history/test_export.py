"""Files for other programs, read back by those programs' own readers."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.history import MetricHistory
from services.history.export import COLUMNS, Format, export
from services.history.series import Window
from tests.services.builders import MOMENT, line, task_state, turn
from tests.services.following import TIMEOUT_S


@pytest.fixture
def trained(base: BaseService) -> BaseService:
    """Two epochs, of which the second was trained again."""
    queue = base.create_log_queue("t", task_state(status=TaskStatus.RUNNING))
    for epoch, loss in ((1, 0.5), (2, None)):
        queue.put(line(metrics={"epoch": epoch, "val_loss": loss, "=cmd|calc": 1.5}, timestamp=MOMENT))
    queue.put(turn(TaskStatus.QUEUED, reason="interrupted", attempt=2))
    queue.put(line(metrics={"epoch": 2, "val_loss": 0.1234567890123}, attempt=2, timestamp=MOMENT))
    base._writer.flush(TIMEOUT_S)
    return base


def exported(base: BaseService, form: Format, window: Window | None = None, names: list[str] | None = None) -> bytes:
    history = MetricHistory(base.series, base.ask_for_buckets)
    return b"".join(export(history, base.get_task("t"), names, form, window or Window()))


def test_csv_has_every_point_that_counts(trained: BaseService) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(trained, "csv", names=["val_loss"]).decode())))
    assert [(row["metric"], row["value"], row["epoch"], row["attempt"], row["line"]) for row in rows] == [
        ("val_loss", "0.5", "1.0", "1", "1"),
        ("val_loss", "0.1234567890123", "2.0", "2", "4"),
    ]
    assert rows[0]["timestamp"] == MOMENT.isoformat()


def test_what_was_trained_again_is_there_on_request(trained: BaseService) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(trained, "csv", Window(all_attempts=True), ["val_loss"]).decode())))
    assert [row["value"] for row in rows] == ["0.5", "", "0.1234567890123"]


def test_a_spreadsheet_takes_no_name_for_a_formula(trained: BaseService) -> None:
    rows = list(csv.reader(io.StringIO(exported(trained, "csv").decode())))
    assert rows[0] == list(COLUMNS)
    assert "'=cmd|calc" in {row[0] for row in rows}
    assert not any(row[0].startswith("=") for row in rows)


def test_json_lines_keep_numbers_and_what_was_not_finite(trained: BaseService) -> None:
    rows = [
        json.loads(each)
        for each in exported(trained, "jsonl", Window(all_attempts=True), ["val_loss"]).decode().splitlines()
    ]
    assert [row["value"] for row in rows] == [0.5, None, 0.1234567890123]
    assert list(rows[0]) == list(COLUMNS)


def test_tensorboard_reads_the_same_values_back(trained: BaseService, tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.t").write_bytes(exported(trained, "tensorboard"))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["=cmd|calc", "val_loss"]
    found = [(event.step, event.value, event.wall_time) for event in events.Scalars("val_loss")]
    moment = MOMENT.timestamp()
    assert found == [(1, 0.5, moment), (2, pytest.approx(0.1234567890123, rel=1e-7), moment)]  # of 32 bits there


def test_tensorboard_has_no_steps_below_nought(base: BaseService, tmp_path: Path) -> None:
    queue = base.create_log_queue("t", task_state(status=TaskStatus.RUNNING, request={"command": ["train"]}))
    for epoch in (0, 1):
        queue.put(line(metrics={"epoch": epoch, "total_steps": 10, "train_loss": 0.5}, step=5))
    base._writer.flush(TIMEOUT_S)
    (tmp_path / "events.out.tfevents.t").write_bytes(exported(base, "tensorboard"))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [5, 15]


def test_tensorboard_shows_what_was_not_finite(trained: BaseService, tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.t").write_bytes(exported(trained, "tensorboard", Window(all_attempts=True)))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [math.isnan(event.value) for event in events.Scalars("val_loss")] == [False, True, False]


@pytest.mark.parametrize("form", ["csv", "jsonl", "tensorboard"])
def test_a_task_without_metrics_is_an_empty_file(base: BaseService, form: Format) -> None:
    base.create_log_queue("t", task_state(status=TaskStatus.RUNNING))
    content = exported(base, form)
    assert content == {"csv": ",".join(COLUMNS).encode() + b"\n", "jsonl": b""}.get(form, content)
