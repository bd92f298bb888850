"""What a client sees of a task whose old lines were removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.retention import Retention, Rules
from tests.api.conftest import Dictate, Start, Watch
from tests.running_server import RunningServer

KEPT = "Validation Loss: 0.5, Validation Accuracy: 50.00%"
Train = Callable[..., tuple[str, Any]]


@pytest.fixture
def trimmed(server: RunningServer, train: Train) -> str:
    task_id, _ = train("Epoch [1/2] started", "words", KEPT, "more words")
    Retention(server.service, Rules(lines_days=0), ()).run_once()
    return task_id


def test_status_and_history_say_up_to_where_lines_were_removed(http: httpx.Client, trimmed: str) -> None:
    path = f"/api/v2/training/{trimmed}"
    status = http.get(path).json()
    page = http.get(f"{path}/logs/history").json()
    assert [entry["message"] for entry in page["entries"]] == [KEPT, "任务结束"]
    last = page["entries"][-1]["id"]
    assert status["removed_until"] == page["removed_until"] == last - 1
    assert status["latest_metrics"]["val_loss"] == 0.5
    assert "removed_until" not in http.get(f"{path}/logs/history", params={"after": last - 1}).json()


def test_a_stream_says_so_in_a_comment_and_ends_with_the_last_line(
    http: httpx.Client, trimmed: str, watch: Watch
) -> None:
    text = http.get(f"/api/v2/training/{trimmed}/logs").text
    assert ": old lines up to" in text
    events = list(watch(trimmed).events())
    assert [event.entry["message"] for event in events] == [KEPT, "任务结束"]
    assert events[-1].entry["status"] == "completed"


def test_the_metrics_that_tasks_are_compared_by_are_there(http: httpx.Client, trimmed: str) -> None:
    series = http.get(f"/api/v2/training/{trimmed}/metrics").json()
    assert "val_loss" in str(series)
    assert http.get(f"/api/v2/training/{trimmed}/metrics/export").status_code == 200


def test_it_is_not_read_again(http: httpx.Client, trimmed: str) -> None:
    answer = http.post(f"/api/v2/training/{trimmed}/reparse", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "lines_removed")


def test_a_task_that_is_whole_says_nothing_of_it(
    http: httpx.Client, dictate: Dictate, start: Start, server: RunningServer
) -> None:
    dictation = dictate()
    task_id = start()
    dictation.say("words")
    Retention(server.service, Rules(lines_days=0), ()).run_once()
    assert "removed_until" not in http.get(f"/api/v2/training/{task_id}").json()
    assert "removed_until" not in http.get(f"/api/v2/training/{task_id}/logs/history").json()
