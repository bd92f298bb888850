"""Alerts over HTTP, to a receiver that is a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from services.alerts.senders import sign
from services.alerts.targets import is_public
from tests.running_server import RunningServer

SECRET = "a secret of sixteen"


class Receiver:
    """Refuses the first `failures` requests, then takes all."""

    def __init__(self, failures: int = 0) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.requests.append(({key.lower(): value for key, value in self.headers.items()}, body))
                is_taken = len(receiver.requests) > failures
                self.send_response(204 if is_taken else 500)
                self.end_headers()
                if is_taken:
                    receiver.taken.set()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(failures=1)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_firing_is_delivered_signed_and_with_one_id(
    serve: Callable[..., RunningServer], receiver: Receiver, body: dict[str, Any]
) -> None:
    with httpx.Client(base_url=serve(alert_private_targets=True).url, timeout=30) as http:
        channel = http.post(
            "/api/v2/alerts/channels",
            json={"name": "c", "kind": "webhook", "url": f"{receiver.url}?key=hidden", "secret": SECRET},
        )
        assert "hidden" not in channel.text
        assert SECRET not in channel.text
        rule = {"name": "r", "kind": "status", "statuses": ["running"], "channels": [channel.json()["id"]]}
        added = http.post("/api/v2/alerts/rules", json=rule)
        assert added.status_code == 200, added.text
        task_id = http.post("/api/v2/training/start", json=body).json()["task_id"]
        assert receiver.taken.wait(30)
        assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
        headers, sent = receiver.requests[-1]
        signature = sign(SECRET, headers["webhook-id"], int(headers["webhook-timestamp"]), sent)
        assert headers["webhook-signature"] == signature
        firings = http.get("/api/v2/alerts", params={"task_id": task_id}).json()["alerts"]
        assert [firing["rule_name"] for firing in firings] == ["r"]


def test_a_private_target_is_refused_when_it_is_connected_to(http: httpx.Client, receiver: Receiver) -> None:
    channel = http.post("/api/v2/alerts/channels", json={"name": "c", "kind": "webhook", "url": receiver.url}).json()
    answer = http.post(f"/api/v2/alerts/channels/{channel['id']}/test").json()
    assert not answer["delivered"]
    assert "ALERT_PRIVATE_TARGETS" in answer["error"]
    assert receiver.requests == []


@pytest.mark.parametrize("url", ["json://127.0.0.1/x", "file:///etc/passwd", "syslog://", "dbus://"])
def test_apprise_services_that_reach_inside_are_refused(http: httpx.Client, url: str) -> None:
    answer = http.post("/api/v2/alerts/channels", json={"name": "c", "kind": "apprise", "url": url})
    assert answer.status_code == 422


def test_the_default_rule_can_be_switched_off_and_deleted(http: httpx.Client) -> None:
    (rule,) = http.get("/api/v2/alerts/rules").json()["rules"]
    assert rule["name"] == "CUDA out of memory"
    path = f"/api/v2/alerts/rules/{rule['id']}"
    assert http.patch(path, json={"enabled": False}).json()["enabled"] is False
    assert http.delete(path).status_code == 204
    assert http.get(path).status_code == 404


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "224.0.0.1", "100.64.0.1", "::1", "::"),
        *("::ffff:127.0.0.1", "fe80::1%eth0", "fc00::1", "ff02::1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses() -> None:
    assert is_public("1.1.1.1")
    assert is_public("2606:4700:4700::1111")
