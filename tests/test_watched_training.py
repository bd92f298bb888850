"""Whoever watches a training changes nothing of it: not a digit of a line, not a bit of a checkpoint."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.api.viewer import Viewer
from tests.service_process import APP, ServiceProcess
from tests.trainer.helpers import request_for, same, write_digits

START = "/api/v2/training/start"
TIMINGS = re.compile(r"finished in [\d.]+s|[\d.]+ images/s, ETA: \d+s")
VIEWERS = 8
EPOCHS = 3
ENDED = ("completed", "failed", "cancelled")


def body(root: Path, name: str, executor: str) -> dict[str, Any]:
    request = request_for(
        root,
        model="mnasnet0_5",  # it drops out: it draws from torch's own generator
        num_classes=3,
        num_epochs=EPOCHS,
        learning_rate=1e-2,
        mixup_alpha=0.2,
        ema_decay=0.9,
        task_id=name,
        executor=executor,
    )
    return request.model_dump(mode="json", exclude_unset=True)


def lines_of(viewer: Viewer) -> list[tuple[str, Any]]:
    """Each message without times, and the metrics that were read from it, up to the frame that ends the log."""
    entries = [event.entry for event in viewer.events()]
    assert entries[-1]["message"] == "任务结束"
    return [(TIMINGS.sub("", entry["message"]), entry.get("metrics")) for entry in entries[:-1]]


def training_lines(lines: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """From the first epoch on: what precedes names the run's own folder."""
    begin = next(number for number, (message, _) in enumerate(lines) if message.startswith("Epoch [1/"))
    return lines[begin:]


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_training_with_viewers_is_the_training_without_any(tmp_path: Path, executor: str) -> None:
    """Viewers from the first line on, one that stalls, one that is cut off, one of the whole service's events."""
    write_digits(tmp_path, training=8, validation=3, classes=3)
    environment = {"OMP_NUM_THREADS": "1", "EXECUTOR": executor}
    with (
        ServiceProcess(APP, folder=tmp_path, **environment) as process,
        httpx.Client(base_url=process.start().url, timeout=60) as client,
        ExitStack() as open_streams,
    ):
        assert client.post(START, json=body(tmp_path, "alone", executor)).status_code == 200
        while client.get("/api/v2/training/alone").json()["status"] not in ENDED:
            time.sleep(0.1)  # nobody may be told when it ends
        with Viewer(process.url, "alone") as late:
            alone = training_lines(lines_of(late))

        assert client.post(START, json=body(tmp_path, "watched", executor)).status_code == 200
        viewers = [open_streams.enter_context(Viewer(process.url, "watched")) for _ in range(VIEWERS)]
        stalled = open_streams.enter_context(Viewer(process.url, "watched", stalled=True))
        open_streams.enter_context(client.stream("GET", "/api/v2/training/events"))
        cut_off = open_streams.enter_context(Viewer(process.url, "watched"))
        cut_off.until_message(f"Epoch [1/{EPOCHS}] started")
        cut_off.cut()
        watched = [training_lines(lines_of(viewer)) for viewer in viewers]
        stalled.go_on()
        assert all(lines == alone for lines in [*watched, training_lines(lines_of(stalled))])
    assert any(metrics and "val_acc" in metrics for _, metrics in alone)

    for name in ("last.pt", "best.pt"):
        contents = [torch.load(tmp_path / "runs" / run / name, weights_only=True) for run in ("alone", "watched")]
        for content in contents:
            del content["request"]["task_id"]
        assert same(*contents), name
