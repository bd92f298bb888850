"""One stream for everything, over real sockets."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from tests.api.conftest import Dictate, Start, Watch
from tests.running_server import RunningServer
from tests.service_process import APP, ServiceProcess

EVENTS = "/api/v2/training/events"
TRAINING = "/api/v2/training"


@pytest.fixture(scope="module")
def server(server_on_each_store: RunningServer) -> RunningServer:
    return server_on_each_store


@contextmanager
def follow(http: httpx.Client, *, last_event_id: str = "", **query: str) -> Iterator[Iterator[ServerSentEvent]]:
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with connect_sse(http, "GET", EVENTS, params=query, headers=headers) as source:
        source.response.raise_for_status()
        yield (event for event in source.iter_sse() if event.data)  # httpx-sse shows `retry` as an event


def until(events: Iterator[ServerSentEvent], message: str) -> list[ServerSentEvent]:
    found = []
    for event in events:
        found.append(event)
        if event.json().get("message") == message:
            return found
    raise AssertionError(f"the stream ended without {message!r}")


def test_a_page_lists_and_follows_from_there_without_a_gap(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictation = dictate()
    task_id = start()
    dictation.say("in the list already")
    watch(task_id).until_message("in the list already")
    cursor = http.get(TRAINING).json()["event_id"]
    dictation.say("Train Loss: 0.5", "between")
    watch(task_id).until_message("between")
    with follow(http, after=cursor) as events:
        found = until(events, "between")
        assert [(event.event, event.json()["message"]) for event in found] == [
            ("metric", "Train Loss: 0.5"),
            ("log", "between"),
        ]
        dictation.end()
        last = until(events, "任务结束")[-1]
    assert (last.event, last.json()["status"], last.json()["reason"]) == ("status", "completed", "finished")
    with follow(http, last_event_id=found[0].id, after="0.0") as events:
        assert [event.id for event in until(events, "任务结束")] == [found[1].id, last.id], "the header wins"


def test_some_tasks_and_some_types(http: httpx.Client, train: Any) -> None:
    cursor = http.get(TRAINING).json()["event_id"]
    train("Train Loss: 0.5")
    wanted, _ = train("Train Loss: 0.25", "a line")
    with follow(http, after=cursor, ids=wanted, types="metric,status") as events:
        found = until(events, "任务结束")
    assert {event.json()["task_id"] for event in found} == {wanted}
    assert [event.event for event in found] == ["status", "metric", "status"]


def test_a_deleted_task_is_told(http: httpx.Client, train: Any) -> None:
    task_id, _ = train("a line")
    cursor = http.get(TRAINING).json()["event_id"]
    http.delete(f"{TRAINING}/{task_id}").raise_for_status()
    with follow(http, after=cursor) as events:
        event = next(events)
    assert (event.event, event.json()) == ("status", {"task_id": task_id, "deleted": True})


@pytest.mark.parametrize("query", [{"types": "metric,rumour"}, {"after": "yesterday"}, {"after": "12"}])
def test_a_question_that_makes_no_sense_is_refused(http: httpx.Client, query: dict[str, str]) -> None:
    answer = http.get(EVENTS, params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == list(query)


def test_a_follower_sees_every_line_once_over_a_kill_of_the_service(
    tmp_path: Path, body: dict[str, Any], store_settings: dict[str, str]
) -> None:
    """A real service, killed in the middle; the trainer is a process of its own, which prints on."""
    script = "import time\nfor n in range(60):\n    print('loss:', n, flush=True); time.sleep(0.05)"
    command = {"command": ["python3", "-c", script], "working_dir": str(tmp_path), "task_id": "counted"}
    environment = {"ALLOW_COMMANDS": "true", "STATE_DIR": str(tmp_path / "state"), **store_settings}
    seen: list[tuple[str, int]] = []
    cursor = ""
    for number in range(3):
        with (
            ServiceProcess(APP, folder=tmp_path, **environment).start() as service,
            httpx.Client(base_url=service.url, timeout=30) as http,
        ):
            if not number:
                cursor = http.get(TRAINING).json()["event_id"]
                http.post(f"{TRAINING}/start", json=command).raise_for_status()
            with follow(http, last_event_id=cursor) as events:
                for event in events:
                    entry = event.json()
                    seen.append((entry["message"], entry["id"]))
                    cursor = event.id
                    if entry["message"] == "任务结束" or (number < 2 and len(seen) == 15 * (number + 1)):
                        break
            if number < 2:
                service.end(signal.SIGKILL)
    assert [number for _, number in seen] == list(range(1, len(seen) + 1))
    assert [message for message, _ in seen if message.startswith("loss")] == [f"loss: {n}" for n in range(60)]
    assert seen[-1][0] == "任务结束"
