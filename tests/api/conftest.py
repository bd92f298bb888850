"""A server for all tests of a module, where those of one test need none of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app_refactored import create_app
from settings import Settings
from tests.api.dictation import Dictation
from tests.api.viewer import Event, Viewer
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from tests.stores import PostgresStore

Start = Callable[..., str]
Watch = Callable[..., Viewer]
Dictate = Callable[..., Dictation]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app_refactored.list_gpus", list)


@pytest.fixture(scope="module")
def server_executor() -> ScriptedExecutor:
    """Of the server that a module's tests share."""
    return ScriptedExecutor()


@pytest.fixture(scope="module")
def serve_module(
    tmp_path_factory: pytest.TempPathFactory, server_executor: ScriptedExecutor
) -> Iterator[Callable[..., RunningServer]]:
    """`serve_module()` starts a server that lasts as long as the module; keyword arguments are settings."""
    running: list[RunningServer] = []

    def serve(**settings: Any) -> RunningServer:
        configured = Settings(state_dir=tmp_path_factory.mktemp("state"), max_training_concurrent_cpu=1000, **settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("app_refactored.list_gpus", list)
            running.append(RunningServer(create_app(configured, server_executor)))
        return running[-1]

    yield serve
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def server(serve_module: Callable[..., RunningServer]) -> RunningServer:
    """One for the whole module, with room for the trainings of all of its tests."""
    return serve_module()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server_on_each_store(
    request: pytest.FixtureRequest, serve_module: Callable[..., RunningServer]
) -> Iterator[RunningServer]:
    """As `server`, for a module that overrides it with this: each test runs on both kinds of store."""
    if request.param == "sqlite":
        yield serve_module()
        return
    url = PostgresStore(request.getfixturevalue("postgres"), "of_a_module").url.render_as_string(hide_password=False)
    running = serve_module(database_url=SecretStr(url))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def dictate(server_executor: ScriptedExecutor, executor: ScriptedExecutor) -> Iterator[Dictate]:
    """`dictate()` makes the script of the trainings that start from now on, on any server of the test."""
    made: list[Dictation] = []

    def new(**options: Any) -> Dictation:
        dictation = Dictation(**options)
        made.append(dictation)
        server_executor.script = executor.script = dictation
        return dictation

    yield new
    for dictation in made:
        dictation.end()


@pytest.fixture
def start(http: httpx.Client, body: dict[str, Any], server_executor: ScriptedExecutor) -> Iterator[Start]:
    """`start()` starts a training, which must be accepted, and gives its id; keyword arguments change the body.

    At the end of the test what runs has its script: a training that begins later would take the next test's.
    """
    here: list[str] = []

    def post(client: httpx.Client = http, **changes: Any) -> str:
        answer = client.post("/api/v2/training/start", json=body | changes)
        assert answer.status_code == 200, answer.text
        task_id = str(answer.json()["task_id"])
        if client is http:
            here.append(task_id)
        return task_id

    yield post
    for task_id in here:
        deadline = time.monotonic() + 20
        while http.get(f"/api/v2/training/{task_id}").json().get("status") == "running":
            if [run.task_id for run in server_executor.started].count(task_id) >= here.count(task_id):
                break
            assert time.monotonic() < deadline, f"{task_id} has not begun"
            time.sleep(0.01)


@pytest.fixture
def watch(server: RunningServer) -> Iterator[Watch]:
    """`watch(task_id)` opens a stream; keyword arguments are those of `Viewer`."""
    with ExitStack() as opened:

        def open_stream(task_id: str, *, url: str = server.url, **options: Any) -> Viewer:
            return opened.enter_context(Viewer(url, task_id, **options))

        yield open_stream


@pytest.fixture
def train(dictate: Dictate, start: Start, watch: Watch) -> Callable[..., tuple[str, list[Event]]]:
    """`train(lines)` runs a training that prints them to its end: its id and all events of its stream."""

    def run(*lines: str, **changes: Any) -> tuple[str, list[Event]]:
        dictation = dictate()
        dictation.say(*lines)
        dictation.end()
        task_id = start(**changes)
        return task_id, list(watch(task_id).events())

    return run
