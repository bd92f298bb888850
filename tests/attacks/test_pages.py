"""What a page can do that the service's user has open in a browser, and that somebody else has written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.attacks.conftest import Target

FOREIGN = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
OTHER_PROGRAM = {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}
SANDBOXED = {"Origin": "null"}


# --- Requests as a browser sends them ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:8000@evil.example"])
def test_a_name_that_was_pointed_at_this_machine_reads_nothing(ours: Target, stock: Target, host: str) -> None:
    def reads(target: Target) -> bool:
        target.post("training/start", json=target.body(task_id="private"))
        return "private" in target.get("training", headers={"Host": host}).text

    assert not reads(ours)
    assert reads(stock)


@pytest.mark.parametrize("headers", [FOREIGN, OTHER_PROGRAM, SANDBOXED])
def test_a_form_of_another_page_starts_nothing(ours: Target, stock: Target, headers: dict[str, str]) -> None:
    """A form may send any text, as text/plain, without asking anybody (Fetch, CORS-safelisted content types)."""

    def starts(target: Target) -> bool:
        form = json.dumps(target.body(task_id="forged"))
        target.post("training/start", content=form, headers=headers | {"Content-Type": "text/plain"})
        return "forged" in target.get("training").text

    assert not starts(ours)
    assert starts(stock)


@pytest.mark.parametrize("headers", [FOREIGN, OTHER_PROGRAM, SANDBOXED])
def test_a_form_without_fields_stops_nothing(ours: Target, stock: Target, headers: dict[str, str]) -> None:
    def stops(target: Target) -> bool:
        target.post("training/start", json=target.body(task_id="long", name="held")).raise_for_status()
        target.post("training/long/stop", headers=headers)
        return bool(target.get("training/long").json()["status"] != "running")

    assert not stops(ours)
    assert stops(stock)


# --- The same, by a browser --------------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def foreign_site(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """`foreign_site(html)` puts a page on another origin: its URL."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def end_headers(self) -> None:
            """Two pages of one second have one Last-Modified: a browser would show the first one again."""
            self.send_header("Cache-Control", "no-store")
            super().end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, name="site")
        thread.start()

        def publish(html: str) -> str:
            (folder / "page.html").write_text(f'<!doctype html><link rel="icon" href="data:,">{html}')
            return f"http://127.0.0.1:{server.server_address[1]}/page.html"

        yield publish
        server.shutdown()
        thread.join()


def test_a_page_that_sends_itself_a_form_stops_nothing(
    ours: Target, stock: Target, page: Page, foreign_site: Callable[[str], str]
) -> None:
    def stops(target: Target) -> bool:
        target.post("training/start", json=target.body(task_id="long", name="held")).raise_for_status()
        action = f"{target.url}/api/v2/training/long/stop"
        page.goto(foreign_site(f'<form method="post" action="{action}"><button>win</button></form>'))
        with page.expect_response(action):
            page.get_by_role("button").click()
        return bool(target.get("training/long").json()["status"] != "running")

    assert not stops(ours)
    assert stops(stock)


def test_a_page_frames_nothing_to_click_on(
    ours: Target, stock: Target, page: Page, foreign_site: Callable[[str], str]
) -> None:
    def frames(target: Target) -> bool:
        page.route("https://**/*", lambda route: route.abort())
        page.goto(foreign_site(f'<iframe src="{target.url}/docs"></iframe>'), wait_until="load")
        return page.frame_locator("iframe").locator("#swagger-ui").count() > 0

    assert not frames(ours)
    assert frames(stock)


def test_a_script_that_was_changed_where_it_is_fetched_from_does_not_run(
    ours: Target, stock: Target, page: Page
) -> None:
    def runs(target: Target) -> bool:
        asked: list[str] = []

        def change(route: Route) -> None:
            asked.append(route.request.url)
            headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "application/javascript"}
            route.fulfill(body="document.title = 'owned'", headers=headers)

        page.route(re.compile("^https:"), change)
        page.goto(f"{target.url}/docs", wait_until="load")
        assert any(url.endswith(".js") for url in asked)
        return page.title() == "owned"

    assert not runs(ours)
    assert runs(stock)
