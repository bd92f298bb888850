"""What Prometheus is told, and what probes are."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

import app_refactored
from api.observing import NO_ROUTE, REFUSED, Observing, RequestCounts
from app_refactored import VERSION, create_app
from services.devices import Gpu
from settings import Settings
from tests.api.conftest import Dictate, Start, Watch
from tests.running_server import RunningServer
from tests.services.refusing import locked

TASK = "/api/v2/training/{task_id}"
Serve = Callable[..., RunningServer]


class Scrape:
    """One answer of `/metrics`."""

    def __init__(self, http: httpx.Client) -> None:
        answer = http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples.get((name, frozenset(labels.items())), 0.0)


def test_tasks_lines_and_waits_are_counted(serve: Serve, dictate: Dictate, start: Start, watch: Watch) -> None:
    url = serve(max_training_concurrent_cpu=1).url
    with httpx.Client(base_url=url) as http:
        dictation = dictate()
        first, second = start(http), start(http)
        busy = Scrape(http)
        assert busy("training_tasks", status="running") == 1
        assert busy("training_tasks", status="queued") == 1
        assert busy("training_queue_length") == 1
        assert busy("training_device_tasks", device="cpu") == busy("training_device_limit", device="cpu") == 1
        dictation.say("Epoch [1/2] started", "Train Loss: 0.5, Train Accuracy: 50.00%")
        dictation.end()
        lines = sum(len(list(watch(task_id, url=url).events())) for task_id in (first, second))
        ended = Scrape(http)
    assert ended("training_log_lines_total") == lines
    assert ended("training_commit_seconds_count") > 0
    assert ended("training_queue_wait_seconds_count") == ended("training_tasks", status="completed") == 2
    assert ended("training_queue_length") == 0
    assert ("training_writer_queue_depth", frozenset()) in ended.samples
    assert ended("training_database_bytes") > 0
    assert any(name == "training_build_info" and ("version", VERSION) in labels for name, labels in ended.samples)


def test_requests_are_counted_by_route_however_they_are_answered(
    http: httpx.Client, dictate: Dictate, start: Start
) -> None:
    dictate()
    task_id = start()
    before = Scrape(http)
    for _ in range(3):
        http.get(f"/api/v2/training/{task_id}").raise_for_status()  # prepared
    http.get(f"/api/v2/training/{task_id}", params={"history": "true"}).raise_for_status()  # by the route
    http.get("/api/v2/training/nobody")
    http.get("/no/such/route")
    http.request("PROPFIND", "/api/v2/models")
    http.get("/api/v2/models", headers={"Host": "evil.example"})
    after = Scrape(http)

    def more(method: str, route: str, status: int) -> float:
        labels = {"method": method, "route": route, "status": str(status)}
        return after("training_http_requests_total", **labels) - before("training_http_requests_total", **labels)

    assert more("GET", TASK, 200) == 4
    assert more("GET", TASK, 404) == 1
    assert more("GET", NO_ROUTE, 404) == 1
    assert more("other", "/api/v2/models", 405) == 1
    assert more("GET", REFUSED, 403) == 1
    seconds = "training_http_request_seconds_count"
    assert after(seconds, route=TASK) - before(seconds, route=TASK) == 2
    assert not any("nobody" in str(labels) or task_id in str(labels) for _, labels in after.samples)


def test_viewers_are_counted_while_they_follow(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch
) -> None:
    dictation = dictate()
    task_id = start()
    viewers = [watch(task_id) for _ in range(2)]
    dictation.say("hello")
    for viewer in viewers:
        viewer.until_message("hello")
    with http.stream("GET", "/api/v2/training/events", params={"after": "0.0"}) as events:
        lines = events.iter_lines()  # kept: with it the stream is closed
        assert any(line.startswith("event:") for line in lines)
        following = Scrape(http)
    assert following("training_followers", stream="logs") == 2
    assert following("training_followers", stream="events") == 1
    dictation.end()
    for viewer in viewers:
        list(viewer.events())
    ended = Scrape(http)
    assert ended("training_followers", stream="logs") == 0
    assert ended("training_streams_dropped_total") == 0


async def test_a_stream_that_is_cut_off_is_counted_and_one_that_ends_is_not() -> None:
    """A stream whose viewer takes nothing ends without its last message (`api.streams`)."""
    counts = RequestCounts()

    async def stream(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        if scope["path"] == "/ends":
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(_message: Any) -> None:
        return

    def dropped() -> float:
        samples = (sample for family in counts.dropped.collect() for sample in family.samples)
        return float(next(sample.value for sample in samples if sample.name.endswith("_total")))

    for path, expected in (("/ends", 0), ("/is-cut", 1)):
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        await Observing(stream, counts)(scope, send, send)  # type: ignore[arg-type]
        assert dropped() == expected


def test_a_scraper_needs_a_token_as_everybody_does(serve: Serve) -> None:
    url = serve(api_tokens=(SecretStr("people"), SecretStr("scraper"))).url
    assert httpx.get(f"{url}/metrics").status_code == 401
    assert httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer scraper"}).status_code == 200


def test_gpus_are_told_as_the_driver_does(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu("cuda:0", 100, 1000, "Model", 0.25), Gpu("cuda:1", 7)]
    monkeypatch.setattr("app_refactored.list_gpus", lambda: gpus)
    with httpx.Client(base_url=serve().url) as http:
        scrape = Scrape(http)
    assert scrape("training_gpu_memory_used_bytes", device="cuda:1") == 7
    assert scrape("training_gpu_memory_total_bytes", device="cuda:0") == 1000
    assert scrape("training_gpu_utilization_ratio", device="cuda:0") == 0.25
    assert ("training_gpu_utilization_ratio", frozenset({("device", "cuda:1")})) not in scrape.samples


def test_applications_in_one_process_count_apart(serve: Serve, tmp_path: Path) -> None:
    first, second = serve(), serve(state_dir=tmp_path / "other")
    with httpx.Client(base_url=first.url) as http:
        http.get("/api/v2/models").raise_for_status()
        labels = {"method": "GET", "route": "/api/v2/models", "status": "200"}
        assert Scrape(http)("training_http_requests_total", **labels) == 1
    with httpx.Client(base_url=second.url) as http:
        assert Scrape(http)("training_http_requests_total", **labels) == 0


def test_it_answers_while_the_store_does_not(server: RunningServer, http: httpx.Client, start: Start) -> None:
    """What cannot be found out is left out."""
    store = server.service.store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.service.database, "size", lambda: (_ for _ in ()).throw(OSError("gone")))
        scrape = Scrape(http)
    assert scrape("training_log_lines_total") >= 0
    assert not any(name in ("training_tasks", "training_database_bytes") for name, _ in scrape.samples)
    assert store.count_by_status() is not None


# --- Probes ------------------------------------------------------------------------------------------------------


def test_one_that_takes_trainings_is_ready_and_alive(http: httpx.Client) -> None:
    for probe in ("ready", "live"):
        answer = http.get(f"/api/v1/health/{probe}")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_one_whose_store_refuses_is_alive_and_not_ready(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch, dictate: Dictate, body: dict[str, Any]
) -> None:
    monkeypatch.setattr("services.storage.database.BUSY_TIMEOUT_S", 0.05)
    dictation = dictate()
    with httpx.Client(base_url=serve().url, timeout=30) as http:
        http.post("/api/v2/training/start", json=body).raise_for_status()
        with locked(settings.state_dir / "training.db"):
            dictation.say("a line that has to wait")
            while http.get("/api/v1/health/ready").status_code == 200:
                pass
            answer = http.get("/api/v1/health/ready")
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
            assert http.get("/api/v1/health/live").status_code == 200
            assert Scrape(http)("training_storage_degraded") == 1
        while http.get("/api/v1/health/ready").status_code != 200:
            pass


def test_one_that_ends_is_not_ready(serve: Serve) -> None:
    server = serve()
    server.service.interrupt()
    answer = httpx.get(f"{server.url}/api/v1/health/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert httpx.get(f"{server.url}/api/v1/health/live").status_code == 200


async def test_one_that_begins_is_alive_and_not_ready(settings: Settings) -> None:
    app: FastAPI = create_app(settings)  # its lifespan has not begun
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        answer = await http.get("/api/v1/health/ready")
        assert (answer.status_code, answer.json()["code"]) == (503, "starting")
        assert (await http.get("/api/v1/health/live")).status_code == 200


def test_nothing_listens_before_the_service_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe of a service that brings its store up to date is refused at its port, and counts as not ready."""
    asked = threading.Event()
    answers: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def build(*_: object) -> None:
        with socket.socket() as probe:
            answers.append(probe.connect_ex(("127.0.0.1", port)))
        asked.set()
        raise RuntimeError("enough")

    monkeypatch.setattr(app_refactored, "build_service", build)
    settings = Settings(state_dir=tmp_path, port=port)
    app = create_app(settings)
    server = app_refactored.Server(app_refactored.server_config(settings, app), app)
    with pytest.raises(SystemExit):
        server.run()
    assert asked.is_set()
    assert answers[0] != 0
