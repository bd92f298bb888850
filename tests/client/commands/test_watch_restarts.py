"""`trainctl watch` where the service restarts not while a log is followed, but between two questions."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from client import TrainingClient, patience
from client.commands import watch
from client.commands.cli import main
from client.commands.session import Session

NOW = "2025-01-01T00:00:00"
TASK = {"task_id": "t", "status": "completed", "progress": 100, "device": "cpu", "created_at": NOW, "updated_at": NOW}
LINE = {"timestamp": NOW, "level": "INFO", "message": "任务结束", "status": "completed"}
METRICS = {"task_id": "t", "x": "epoch", "revision": 1, "last_id": 0, "series": []}


class Restarting:
    """Answers the first question for the status, then every second one; of the metrics the second one."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._fails_next = {"metrics": True, "t": False}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        what = request.url.path.rpartition("/")[2]
        self.asked.append(what)
        if what == "logs":
            text = f"id: 1\ndata: {json.dumps(LINE)}\n\n"
            return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=text)
        fails, self._fails_next[what] = self._fails_next[what], not self._fails_next[what]
        if fails:
            return httpx.Response(503, json={"detail": "The service is starting.", "code": "starting"})
        return httpx.Response(200, json=METRICS if what == "metrics" else TASK)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Restarting:
    service = Restarting()

    def connect(_session: Session, timeout: float = 1.0, **options: Any) -> TrainingClient:
        return TrainingClient(timeout=timeout, transport=httpx.MockTransport(service), **options)

    monkeypatch.setattr(Session, "connect", connect)
    monkeypatch.setattr(patience, "delay", lambda _fruitless: 0.0)
    return service


def test_the_status_at_the_end_is_asked_for_again(service: Restarting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "t"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "The service does not answer; trying again in 0 s." in said.out
    assert said.out.splitlines()[-1] == "The training is completed."
    assert service.asked == ["t", "logs", "t", "t", "t", "t"]


def test_scripts_get_nothing_but_objects(service: Restarting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "t", "--json"]) == 0
    line, task = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert (line["status"], task["status"]) == ("completed", "completed")
    assert service.asked.count("t") == 5


def test_the_epochs_so_far_are_asked_for_again(
    service: Restarting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "is_live", lambda _screen: True)
    assert main(["watch", "t"]) == 0
    assert capsys.readouterr().err == ""
    assert service.asked[:4] == ["t", "metrics", "metrics", "logs"]
