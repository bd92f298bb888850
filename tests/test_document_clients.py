"""Clients written from the change log alone, as they are deployed: Python with `requests`, pages with EventSource."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page

from api import streams
from tests.api.dictation import Dictation
from tests.running_server import RunningServer
from tests.scripted_executor import EPOCH_LINES, ScriptedExecutor

Serve = Callable[..., RunningServer]
Body = dict[str, Any]
Entry = dict[str, Any]

LINES = [
    *(line.format(epoch=1, total=2) for line in EPOCH_LINES),
    "验证 done \u2028 \u2029 \x85 \x0c \r \ud7ff \U0001f40d 'quoted' \"twice\" \\ data: id: 1",
    "Training complete.",
]


@pytest.fixture
def dictation(executor: ScriptedExecutor) -> Iterator[Dictation]:
    executor.script = dictation = Dictation()
    yield dictation
    dictation.end()


def assert_whole(numbers: list[int], entries: list[Entry], status: str = "completed") -> None:
    """Every line once and in order, from the first to the last frame."""
    assert numbers == list(range(1, len(entries) + 1))
    messages = [entry["message"] for entry in entries]
    assert [message for message in messages if message in LINES] == LINES
    assert (messages[-1], entries[-1]["status"]) == ("任务结束", status)
    assert all("status" not in entry for entry in entries[:-1])


# --- Python ------------------------------------------------------------------------------------------------------


def follow(url: str, task_id: str) -> list[Entry]:
    """Print the log stream, as the document's monitor does: lines that begin with `data: `, until one has a status."""
    entries: list[Entry] = []
    with requests.get(f"{url}/api/v2/training/{task_id}/logs", stream=True, timeout=30) as response:
        for line in response.iter_lines(decode_unicode=True):
            if line and line.startswith("data: "):
                entry = json.loads(line[6:])
                entries.append(entry)
                metrics = ", ".join(f"{name}={value}" for name, value in entry.get("metrics", {}).items())
                print(entry["timestamp"], entry["level"], entry.get("stage"), entry["message"], metrics)
                if entry.get("status"):
                    break
    return entries


def poll(url: str, task_id: str) -> tuple[dict[str, Any], timedelta]:
    """The last status, and how long the training took by this machine's clock."""
    while True:
        status = requests.get(f"{url}/api/v2/training/{task_id}", timeout=30).json()
        age = datetime.now() - datetime.fromisoformat(status["created_at"])
        print(status["status"], status["progress"], status["current_epoch"], status["latest_metrics"].get("val_acc"))
        if status["status"] in ("completed", "failed", "cancelled"):
            return status, age
        time.sleep(0.02)


def test_a_client_with_requests_starts_polls_and_follows_to_the_end(
    server: RunningServer, body: Body, dictation: Dictation
) -> None:
    answer = requests.post(f"{server.url}/api/v2/training/start", json=body, timeout=30)
    assert answer.status_code == 200
    task_id = answer.json()["task_id"]
    with ThreadPoolExecutor(2) as pool:
        log, last = pool.submit(follow, server.url, task_id), pool.submit(poll, server.url, task_id)
        dictation.say(*LINES)
        dictation.end()
        entries, (status, age) = log.result(30), last.result(30)

    assert_whole(list(range(1, len(entries) + 1)), entries)
    assert status["status"] == "completed"
    assert status["progress"] == 100
    assert status["latest_metrics"]["val_acc"] == 78.92
    assert timedelta() <= age < timedelta(minutes=1)


def test_a_client_with_requests_stops_a_training(server: RunningServer, body: Body, dictation: Dictation) -> None:
    task_id = requests.post(f"{server.url}/api/v2/training/start", json=body, timeout=30).json()["task_id"]
    answer = requests.post(f"{server.url}/api/v2/training/{task_id}/stop", timeout=30)

    assert answer.json()["status"] == "success"
    assert follow(server.url, task_id)[-1]["status"] == "cancelled"
    assert poll(server.url, task_id)[0]["status"] == "cancelled"


# --- A browser ---------------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """An empty page; streams tell it to come back soon, so that tests need not wait for it."""
    monkeypatch.setattr(streams, "RETRY", b"retry: 100\r\n\r\n")
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    yield opened
    context.close()


@pytest.fixture
def other_site() -> Iterator[str]:
    """An empty page of another origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
            """Tests should be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


START = """async ([url, body]) => {
  const answer = await fetch(url + "/api/v2/training/start", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
  return (await answer.json()).task_id;
}"""

WATCH = """([url, close]) => {
  window.ids = [];
  window.entries = [];
  window.source = new EventSource(url);
  window.source.onmessage = (event) => {
    const entry = JSON.parse(event.data);
    window.ids.push(Number(event.lastEventId));
    window.entries.push(entry);
    if (close && entry.status) window.source.close();
  };
}"""
CLOSED = "() => window.source.readyState === EventSource.CLOSED"


def watch(page: Page, url: str, task_id: str, *, close: bool) -> None:
    page.evaluate(WATCH, [f"{url}/api/v2/training/{task_id}/logs", close])


def wait_for(page: Page, message: str) -> None:
    page.wait_for_function("wanted => window.entries.some(entry => entry.message === wanted)", arg=message)


def seen(page: Page) -> tuple[list[int], list[Entry]]:
    return page.evaluate("window.ids"), page.evaluate("window.entries")


def test_a_page_of_the_service_collects_every_entry_until_one_has_a_status(
    page: Page, server: RunningServer, body: Body, dictation: Dictation
) -> None:
    page.goto(server.url)
    task_id = page.evaluate(START, ["", body])
    watch(page, "", task_id, close=True)
    dictation.say(*LINES)
    wait_for(page, LINES[-1])
    dictation.end()
    page.wait_for_function(CLOSED)

    assert_whole(*seen(page))


def test_an_allowed_page_of_another_origin_does_the_same(
    page: Page, other_site: str, serve: Serve, body: Body, dictation: Dictation
) -> None:
    server = serve(allowed_origins=(other_site,))
    page.goto(other_site)
    task_id = page.evaluate(START, [server.url, body])
    watch(page, server.url, task_id, close=True)
    dictation.say(*LINES)
    wait_for(page, LINES[-1])
    dictation.end()
    page.wait_for_function(CLOSED)

    assert_whole(*seen(page))


def test_a_page_of_another_origin_that_is_not_allowed_sees_and_starts_nothing(
    page: Page, other_site: str, server: RunningServer, body: Body, dictation: Dictation
) -> None:
    task_id = requests.post(f"{server.url}/api/v2/training/start", json=body, timeout=30).json()["task_id"]
    page.goto(other_site)
    watch(page, server.url, task_id, close=True)
    page.wait_for_function(CLOSED)
    blind = """async (url) => {
      for (const type of ["application/json", "text/plain"]) {
        try {
          await fetch(url, {method: "POST", mode: "no-cors", headers: {"Content-Type": type}, body: "{}"});
        } catch (error) {}
      }
    }"""
    page.evaluate(blind, f"{server.url}/api/v2/training/{task_id}/stop")

    assert seen(page) == ([], [])
    status = requests.get(f"{server.url}/api/v2/training/{task_id}", timeout=30).json()
    assert status["status"] == "running"


def test_the_example_in_the_documentation_runs_as_it_stands(
    page: Page, server: RunningServer, body: Body, dictation: Dictation
) -> None:
    operations = requests.get(f"{server.url}/openapi.json", timeout=30).json()["paths"]
    description = operations["/api/v2/training/{task_id}/logs"]["get"]["description"]
    example = description.partition("```javascript\n")[2].partition("```")[0]
    printed: list[str] = []
    page.on("console", lambda message: printed.append(message.text))
    page.goto(server.url)
    task_id = page.evaluate(START, ["", body])
    page.evaluate(f"taskId => {{ {example}; window.source = source; }}", task_id)
    dictation.say("Epoch [1/2] started", "Train Loss: 0.5234, Train Accuracy: 82.45%")
    dictation.end()
    page.wait_for_function(CLOSED)

    assert any(line.endswith("INFO Train Loss: 0.5234, Train Accuracy: 82.45%") for line in printed)
    assert any(line.startswith("training {") and "train_acc: 82.45" in line for line in printed)
    assert printed[-1].endswith("任务结束")


@pytest.mark.parametrize("follows_live", [True, False])
def test_a_page_that_never_closes_its_source_is_stopped_behind_the_last_frame(
    page: Page, server: RunningServer, body: Body, dictation: Dictation, follows_live: bool
) -> None:
    answers: list[int] = []
    page.on("response", lambda response: answers.append(response.status) if "/logs" in response.url else None)
    page.goto(server.url)
    task_id = page.evaluate(START, ["", body])
    dictation.say(*LINES)
    if follows_live:
        watch(page, "", task_id, close=False)
        wait_for(page, LINES[-1])
        dictation.end()
    else:
        dictation.end()
        follow(server.url, task_id)
        watch(page, "", task_id, close=False)
    page.wait_for_function(CLOSED)

    assert_whole(*seen(page))
    assert answers == [200, 204]


def test_a_page_follows_across_a_restart_by_itself(
    page: Page, serve: Serve, body: Body, executor: ScriptedExecutor, dictation: Dictation
) -> None:
    """The training waits in the queue behind another one; both are the restarted service's."""
    first = serve()
    page.goto(first.url)
    page.evaluate(START, ["", body | {"max_restarts": 0}])
    waiting = page.evaluate(START, ["", body])
    watch(page, "", waiting, close=False)
    wait_for(page, "Waiting for a free device")
    executor.script = after = Dictation()
    first.stop()
    second = serve(port=first.port)
    after.say(*LINES)
    wait_for(page, LINES[-1])
    after.end()
    page.wait_for_function(CLOSED)

    assert_whole(*seen(page))
    assert follow(second.url, waiting) == seen(page)[1]


def test_a_page_learns_from_a_restart_that_its_training_was_interrupted(
    page: Page, serve: Serve, body: Body, dictation: Dictation
) -> None:
    first = serve()
    page.goto(first.url)
    task_id = page.evaluate(START, ["", body | {"max_restarts": 0}])
    watch(page, "", task_id, close=True)
    dictation.say(*LINES)
    wait_for(page, LINES[-1])
    first.stop()
    serve(port=first.port)
    page.wait_for_function(CLOSED)

    assert_whole(*seen(page), status="failed")
    assert seen(page)[1][-1]["reason"] == "interrupted"
