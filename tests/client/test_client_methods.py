"""Each method sends what the contract says and gives typed answers and typed errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import ServiceError, ServiceUnreachable, TrainingClient
from models.schemas import CommandRequest, Stage, TaskStatus, TrainingRequest

TASK: dict[str, Any] = {
    "task_id": "t",
    "task_type": "training",
    "status": "running",
    "progress": 30,
    "device": "cpu",
    "latest_metrics": {"epoch": 3, "train_loss": 0.5},
    "created_at": "2025-10-29T10:00:00",
    "updated_at": "2025-10-29T10:15:00",
}
ENTRY = {"timestamp": "2025-10-29T10:00:00", "level": "INFO", "message": "m"}


class Wire:
    """Answers with what it is given, and keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]


def client_of(wire: Callable[[httpx.Request], httpx.Response], **options: Any) -> TrainingClient:
    return TrainingClient("http://127.0.0.1:8000", transport=httpx.MockTransport(wire), **options)


def test_start_sends_only_what_is_set(tmp_path: Path) -> None:
    wire = Wire(TASK, TASK, TASK)
    fields = {"model": "resnet18", "num_classes": 2, "val_path": "v", "save_path": "s"}
    with client_of(wire) as client:
        assert client.start(train_path=tmp_path, **fields).status is TaskStatus.RUNNING
        request = TrainingRequest(model="resnet18", num_classes=2, train_path="t", val_path="v", save_path="s")
        client.start(request)
        client.start(request, num_epochs=3)
    assert wire.asked == ["POST /api/v2/training/start"] * 3
    bodies = [json.loads(request.content) for request in wire.requests]
    assert bodies[0] == {**fields, "train_path": str(tmp_path)}
    assert bodies[1] == {**fields, "train_path": "t"}
    assert bodies[2] == {**fields, "train_path": "t", "num_epochs": 3}


def test_foreign_trainers_and_their_logs(tmp_path: Path) -> None:
    tried = {"lines": [], "unmatched": [1], "unmatched_definitions": [], "rules": []}
    wire = Wire(TASK, TASK, tried, TASK)
    pattern = {"name": "dice", "regex": "Dice: ([0-9.]+)"}
    with client_of(wire) as client:
        client.start(CommandRequest(command=["python", "train.py"], working_dir="/code"), device="cpu")
        client.import_log(tmp_path / "train.log", follow=True)
        assert client.try_parsing("a line", log_format="none").unmatched == [1]
        client.reparse("a/b", metric_definitions=[pattern])
    assert wire.asked == [
        "POST /api/v2/training/start",
        "POST /api/v2/training/import",
        "POST /api/v2/parsing/try",
        "POST /api/v2/training/a%2Fb/reparse",
    ]
    assert [json.loads(request.content) for request in wire.requests] == [
        {"command": ["python", "train.py"], "working_dir": "/code", "device": "cpu"},
        {"path": str(tmp_path / "train.log"), "follow": True},
        {"text": "a line", "log_format": "none"},
        {"metric_definitions": [pattern]},
    ]


def test_status_stop_resume_delete() -> None:
    done = {"status": "success", "message": "ok", "task_id": "t"}
    wire = Wire(TASK, TASK, done, {**TASK, "attempt": 2}, done)
    with client_of(wire) as client:
        task = client.status("t")
        assert task.latest_metrics is not None
        assert task.latest_metrics.train_loss == 0.5
        client.status("a/b", metrics=["val_acc", "mAP"])
        assert client.stop("t").message == "ok"
        assert client.resume("t").attempt == 2
        assert client.delete("t").task_id == "t"
    assert wire.asked == [
        "GET /api/v2/training/t",
        "GET /api/v2/training/a%2Fb?metrics=val_acc%2CmAP",
        "POST /api/v2/training/t/stop",
        "POST /api/v2/training/t/resume",
        "DELETE /api/v2/training/t",
    ]


@pytest.mark.parametrize("task_id", ["", ".", "..", "events", "compare", "start", "import", "parsing", "models"])
def test_what_can_be_no_task_id_is_an_unknown_task_and_never_another_address(task_id: str) -> None:
    wire = Wire()
    with client_of(wire) as client:
        asks: list[Callable[[], object]] = [
            lambda: client.status(task_id),
            lambda: client.delete(task_id),
            lambda: next(client.follow(task_id)),
            lambda: next(client.history(task_id)),
            lambda: client.metrics(task_id),
        ]
        for ask in asks:
            with pytest.raises(ServiceError, match="There is no task") as caught:
                ask()
            assert (caught.value.status_code, caught.value.code) == (404, "task_not_found")
    assert wire.asked == []


def test_queue_and_devices() -> None:
    cpu = {"device": "cpu", "limit": 2, "default_limit": 1, "running": ["t"], "queued": ["a/b"]}
    answer = {"devices": [cpu], "queue": {"length": 1, "max_length": 1000}}
    wire = Wire({**TASK, "status": "queued", "queue_position": 1}, answer, answer)
    with client_of(wire) as client:
        assert client.set_priority("a/b", 1).queue_position == 1
        assert client.resources().queue.length == 1
        (device,) = client.set_limits({"cpu": 2, "cuda:0": None}).devices
        assert (device.running, device.queued, device.model) == (["t"], ["a/b"], None)
    assert wire.asked == ["PATCH /api/v2/training/a%2Fb", "GET /api/v2/resources", "POST /api/v2/resources"]
    moved, _, limited = wire.requests
    assert json.loads(moved.content) == {"priority": 1}
    assert json.loads(limited.content) == {"limits": {"cpu": 2, "cuda:0": None}}


def test_tasks_reads_all_pages() -> None:
    wire = Wire({"tasks": [TASK, TASK], "next_cursor": "c"}, {"tasks": [TASK]}, {"tasks": []}, {"tasks": []})
    with client_of(wire) as client:
        assert len(list(client.tasks(TaskStatus.RUNNING, page_size=2))) == 3
        assert client.list().next_cursor is None
        client.list([TaskStatus.RUNNING, "queued"])
    assert wire.asked == [
        "GET /api/v2/training?status=running&limit=2",
        "GET /api/v2/training?status=running&limit=2&cursor=c",
        "GET /api/v2/training",
        "GET /api/v2/training?status=running&status=queued",
    ]


def test_history_reads_all_pages() -> None:
    pages = [
        {"task_id": "t", "entries": [{**ENTRY, "id": 8}, {**ENTRY, "id": 9}], "next_after": 9},
        {"task_id": "t", "entries": [{**ENTRY, "id": 10}]},
    ]
    wire = Wire(*pages)
    with client_of(wire) as client:
        ids = [entry.id for entry in client.history("t", 7, level="INFO", stage=Stage.TRAINING, page_size=2)]
    assert ids == [8, 9, 10]
    assert wire.asked == [
        "GET /api/v2/training/t/logs/history?limit=2&level=INFO&stage=training&after=7",
        "GET /api/v2/training/t/logs/history?limit=2&level=INFO&stage=training&after=9",
    ]


def test_check_starts_nothing(tmp_path: Path) -> None:
    wire = Wire({"device": "cpu", "warnings": ["w"]})
    with client_of(wire) as client:
        assert client.check(model="resnet18", train_path=tmp_path).warnings == ["w"]
    assert wire.asked == ["POST /api/v2/training/check"]
    assert json.loads(wire.requests[0].content) == {"model": "resnet18", "train_path": str(tmp_path)}


def test_export_writes_a_file_that_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    refusal = httpx.Response(404, json={"detail": "no such task", "code": "task_not_found"})
    wire = Wire(httpx.Response(200, content=b'{"epoch": 1}\n'), refusal)
    with client_of(wire) as client:
        client.export("t", file, "jsonl", names=["a", "b"])
        with pytest.raises(ServiceError, match="no such task"):
            client.export("u", tmp_path / "none.csv")
    assert wire.asked[0] == "GET /api/v2/training/t/metrics/export?format=jsonl&names=a%2Cb"
    assert file.read_bytes() == b'{"epoch": 1}\n'
    assert list(tmp_path.iterdir()) == [file]


def test_wait_follows_to_the_end_and_asks_once() -> None:
    last = json.dumps({**ENTRY, "status": "completed"})
    events = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=f"id: 1\ndata: {last}\n\n")
    wire = Wire(events, {**TASK, "status": "completed"})
    with client_of(wire) as client:
        assert client.wait("t").status is TaskStatus.COMPLETED
    assert wire.asked == ["GET /api/v2/training/t/logs", "GET /api/v2/training/t"]


def test_a_restart_between_the_last_line_and_the_status_is_waited_for() -> None:
    last = json.dumps({**ENTRY, "status": "completed"})
    events = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=f"id: 1\ndata: {last}\n\n")
    starting = httpx.Response(503, json={"detail": "The service is starting.", "code": "starting"})
    wire = Wire(events, starting, httpx.Response(522, text="<html>"), {**TASK, "status": "completed"})
    waits: list[float] = []
    with client_of(wire, sleep=waits.append) as client:
        assert client.wait("t").status is TaskStatus.COMPLETED
    assert wire.asked == ["GET /api/v2/training/t/logs"] + ["GET /api/v2/training/t"] * 3
    assert waits == [1, 2]


def test_waiting_for_a_task_that_is_gone_at_its_end_is_told_at_once() -> None:
    last = json.dumps({**ENTRY, "status": "completed"})
    events = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=f"id: 1\ndata: {last}\n\n")
    wire = Wire(events, httpx.Response(404, json={"detail": "There is no task 't'.", "code": "task_not_found"}))
    with client_of(wire) as client, pytest.raises(ServiceError, match="There is no task"):
        client.wait("t")


@pytest.mark.parametrize("guide", ["TRAINING_METRICS_GUIDE.md", "TRAINING_METRICS_GUIDE.en.md"])
def test_every_method_is_in_the_guide(guide: str) -> None:
    text = (Path(__file__).parents[2] / "doc" / guide).read_text("utf-8")
    methods = {name for name, each in vars(TrainingClient).items() if callable(each) and not name.startswith("_")}
    missing = {name for name in methods - {"close"} if f"`{name}`" not in text and f"client.{name}(" not in text}
    assert missing == set()


def test_models_and_health() -> None:
    network = {"name": "resnet18", "parameters": 11_689_512, "min_image_size": 32, "pretrained": True}
    health = {"status": "ok", "version": "0.1.0", "running": 1, "queued": 0, "storage": "ok"}
    wire = Wire({"models": [network]}, health)
    with client_of(wire) as client:
        assert [model.name for model in client.models()] == ["resnet18"]
        assert client.health().running == 1
    assert wire.asked == ["GET /api/v2/models", "GET /api/v1/health"]


def test_the_token_is_sent_where_there_is_one() -> None:
    for token, header in [("secret", "Bearer secret"), (None, None)]:
        wire = Wire(TASK)
        with client_of(wire, token=token) as client:
            client.status("t")
        assert wire.requests[0].headers.get("Authorization") == header


def test_a_refusal_keeps_the_services_own_words() -> None:
    problem = {"field": "num_epochs", "code": "greater_than_equal", "message": "must be at least 1"}
    body = {"detail": "One field cannot be used.", "code": "invalid_request", "errors": [problem]}
    with client_of(Wire(httpx.Response(422, json=body))) as client, pytest.raises(ServiceError) as caught:
        client.start(num_epochs=0)
    error = caught.value
    assert (error.status_code, error.code, error.detail) == (422, body["code"], body["detail"])
    assert error.errors[0].field == "num_epochs"
    assert str(error) == "One field cannot be used. (num_epochs: must be at least 1)"


def test_a_sentence_that_names_the_field_is_not_repeated() -> None:
    problem = {"field": "num_epochs", "code": "c", "message": "must be at least 1"}
    body = {"detail": "num_epochs: must be at least 1", "code": "invalid_request", "errors": [problem]}
    with client_of(Wire(httpx.Response(422, json=body))) as client, pytest.raises(ServiceError) as caught:
        client.start(num_epochs=0)
    assert str(caught.value) == body["detail"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"hello": "world"}),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(502, text="Bad Gateway"),
        httpx.Response(302, headers={"Location": "/login"}),
    ],
)
def test_an_answer_that_is_not_the_services(answer: httpx.Response) -> None:
    with client_of(Wire(answer)) as client, pytest.raises(ServiceError, match="not the training service's") as caught:
        client.health()
    assert (caught.value.code, caught.value.status_code) == ("unexpected_answer", answer.status_code)


def test_nobody_answers() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("timed out")

    with client_of(refuse) as client, pytest.raises(ServiceUnreachable, match="does not answer: timed out"):
        client.status("t")


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://host:99999", "http://host:x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address of a service"):
        TrainingClient(url)


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for host, proxies in [("127.0.0.1", False), ("[::1]", False), ("localhost", False), ("example.org", True)]:
        with TrainingClient(f"http://{host}:8000") as client:
            assert client._http.trust_env is proxies
