"""A browser's cookie instead of a token, and what it is not good for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from api import session
from tests.api.conftest import Dictate, Start
from tests.running_server import RunningServer

ServeModule = Callable[..., RunningServer]
Body = dict[str, Any]

TOKEN = "correct horse/battery=staple+1"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}
SIGN_IN = "/api/v1/session"
TASKS = "/api/v2/training"


@pytest.fixture(scope="module")
def server(serve_module: ServeModule) -> RunningServer:
    return serve_module(api_tokens=f"another, {TOKEN}")


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of its own for each test: it keeps cookies, like a browser."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def own(server: RunningServer) -> dict[str, str]:
    """What a browser adds where a page of the service itself asks."""
    return {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}


def sign_in(http: httpx.Client, **headers: str) -> str:
    """The cookie's value."""
    answer = http.post(SIGN_IN, headers=WITH_TOKEN | headers)
    assert answer.status_code == 200, answer.text
    return answer.cookies[session.COOKIE]


def status_with(http: httpx.Client, cookie: str, **headers: str) -> int:
    http.cookies.clear()
    return http.get(TASKS, headers={"Cookie": f"{session.COOKIE}={cookie}", **headers}).status_code


# --- What it is --------------------------------------------------------------------------------------------------


def test_a_token_buys_a_cookie_that_opens_every_route_and_stream(
    http: httpx.Client, own: dict[str, str], body: Body, dictate: Dictate
) -> None:
    assert http.get(TASKS).status_code == 401
    sign_in(http)

    dictate().end()
    task_id = http.post(f"{TASKS}/start", json=body, headers=own).json()["task_id"]
    assert '"status":"completed"' in http.get(f"{TASKS}/{task_id}/logs").text
    assert http.delete(f"{TASKS}/{task_id}", headers=own).status_code == 200


def test_scripts_cannot_read_it_and_other_sites_do_not_send_it(http: httpx.Client) -> None:
    _value, *attributes = http.post(SIGN_IN, headers=WITH_TOKEN).headers["set-cookie"].split("; ")

    assert {"HttpOnly", "Path=/", f"Max-Age={session.LIFETIME_S}"} < set(attributes)
    assert "SameSite=strict" in attributes
    assert not any(each.startswith(("Secure", "Domain")) for each in attributes)


def test_over_https_it_is_sent_over_https_alone(http: httpx.Client) -> None:
    answer = http.post(SIGN_IN, headers=WITH_TOKEN | {"X-Forwarded-Proto": "https"})  # as a proxy on this machine says

    assert "Secure" in answer.headers["set-cookie"]


def test_it_says_when_it_ends_and_not_what_the_token_is(http: httpx.Client) -> None:
    answer = http.post(SIGN_IN, headers=WITH_TOKEN)

    expires = datetime.fromisoformat(answer.json()["expires_at"])
    assert abs(expires - datetime.now(UTC) - timedelta(seconds=session.LIFETIME_S)) < timedelta(minutes=1)
    for part in (TOKEN, TOKEN.split("/")[0], TOKEN.encode().hex(), TOKEN.encode().hex()[:8]):
        assert part not in answer.headers["set-cookie"]


def test_signing_out_has_the_browser_forget_it(http: httpx.Client, own: dict[str, str]) -> None:
    sign_in(http)
    assert http.delete(SIGN_IN, headers=own).json() == {}

    assert session.COOKIE not in http.cookies
    assert http.get(TASKS).status_code == 401


def test_without_tokens_there_is_no_cookie_and_none_is_needed(serve_module: ServeModule) -> None:
    with httpx.Client(base_url=serve_module().url) as http:
        answer = http.post(SIGN_IN)

        assert (answer.status_code, answer.json()) == (200, {})
        assert "set-cookie" not in answer.headers
        assert http.get(TASKS).status_code == 200


# --- How it ends -------------------------------------------------------------------------------------------------


def test_it_outlasts_a_restart_and_ends_with_its_token(http: httpx.Client, serve_module: ServeModule) -> None:
    cookie = sign_in(http)

    with httpx.Client(base_url=serve_module(api_tokens=f"{TOKEN}, new").url) as restarted:
        assert status_with(restarted, cookie) == 200
    with httpx.Client(base_url=serve_module(api_tokens="another, new").url) as without_it:
        assert status_with(without_it, cookie) == 401


def test_it_expires(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.time()
    cookie = sign_in(http)
    assert status_with(http, cookie) == 200

    monkeypatch.setattr("api.session.time.time", lambda: begin + session.LIFETIME_S + 2)
    assert status_with(http, cookie) == 401


def test_it_cannot_prolong_itself(http: httpx.Client, own: dict[str, str]) -> None:
    sign_in(http)

    assert http.post(SIGN_IN, headers=own).status_code == 401


def test_no_other_cookie_will_do(http: httpx.Client) -> None:
    expires, _, signature = sign_in(http).partition(".")

    assert status_with(http, f"{expires}.{signature}") == 200
    for forged in (
        f"{int(expires) + 1}.{signature}",
        f"0{expires}.{signature}",
        f"{expires}.{signature[:-1]}",
        f"{expires}.{signature.upper()}",
        f"{expires}.",
        f".{signature}",
        signature,
        TOKEN,
        "",
    ):
        assert status_with(http, forged) == 401, forged


@settings(max_examples=50, deadline=None)
@given(value=st.binary(max_size=60).filter(lambda value: not set(value) & {*range(33), 127}))
def test_no_bytes_in_a_cookie_are_answered_with_a_500(server: RunningServer, value: bytes) -> None:
    cookie = f"{session.COOKIE}=".encode() + value

    assert httpx.get(f"{server.url}{TASKS}", headers={b"Cookie": cookie}).status_code == 401


def test_a_cookie_of_its_name_from_another_program_is_no_obstacle(http: httpx.Client) -> None:
    cookie = sign_in(http)

    assert status_with(http, f"1.other; theme=dark; {session.COOKIE}={cookie}") == 200
    assert status_with(http, f"{cookie}; {session.COOKIE}=1.other") == 200


# --- Other pages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_cookie_changes_nothing_unless_the_browser_names_a_page_of_ours(
    http: httpx.Client, headers: dict[str, str]
) -> None:
    sign_in(http)
    answer = http.post(f"{TASKS}/some/stop", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")


def test_a_page_beside_ours_cannot_even_read_with_it(http: httpx.Client) -> None:
    cookie = sign_in(http)

    assert status_with(http, cookie, **{"Sec-Fetch-Site": "same-site"}) == 403
    assert status_with(http, cookie, **{"Sec-Fetch-Site": "none"}) == 200


# --- In a browser ------------------------------------------------------------------------------------------------

PAGE = "<!doctype html><link rel='icon' href='data:,'>"
READ_LOG = """async ([service, token, task]) => {
  const options = { method: "POST", headers: { Authorization: `Bearer ${token}` }, credentials: "include" };
  const answer = await fetch(`${service}/api/v1/session`, options);
  if (!answer.ok) return [answer.status];
  const source = new EventSource(`${service}/api/v2/training/${task}/logs`, { withCredentials: true });
  const messages = [];
  await new Promise((done) => {
    source.onerror = done;
    source.onmessage = (event) => {
      const entry = JSON.parse(event.data);
      messages.push(entry.message);
      if (entry.status) done();
    };
  });
  source.close();
  return [answer.status, document.cookie, ...messages];
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


class Pages(BaseHTTPRequestHandler):
    """A web server beside the service; each of its ports is an origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def serve_pages() -> Iterator[Callable[[], str]]:
    """`serve_pages()` gives one more origin with an empty page."""
    with ExitStack() as running:

        def start() -> str:
            server = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Pages))
            thread = threading.Thread(target=server.serve_forever, name="pages")
            thread.start()
            running.callback(thread.join)
            running.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield start


def test_an_event_source_follows_a_log_with_it(
    page: Page, server: RunningServer, http: httpx.Client, dictate: Dictate, start: Start
) -> None:
    http.headers.update(WITH_TOKEN)
    dictation = dictate()
    dictation.say("a line")
    dictation.end()
    task_id = start()
    page.route(f"{server.url}/page", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
    page.goto(f"{server.url}/page")

    assert page.evaluate(READ_LOG, [server.url, "wrong", task_id]) == [401]
    status, readable, *messages = page.evaluate(READ_LOG, [server.url, TOKEN, task_id])
    assert (status, readable) == (200, "")
    assert messages[-2:] == ["a line", "任务结束"]


def test_a_page_of_ones_own_on_the_same_machine_follows_a_log_with_it_and_no_other_page_does(
    page: Page, serve_pages: Callable[[], str], serve_module: ServeModule, dictate: Dictate, start: Start
) -> None:
    allowed, other = serve_pages(), serve_pages()
    beside = serve_module(api_tokens=TOKEN, allowed_origins=allowed)
    dictate().end()
    with httpx.Client(base_url=beside.url, headers=WITH_TOKEN) as http:
        task_id = start(http)
    page.goto(allowed)
    assert page.evaluate(READ_LOG, [beside.url, TOKEN, task_id])[-1] == "任务结束"

    reading = f"() => fetch('{beside.url}{TASKS}', {{ credentials: 'include' }}).then(() => 'read', () => 'refused')"
    assert page.evaluate(reading) == "read"
    page.goto(other)
    assert page.evaluate(reading) == "refused"
