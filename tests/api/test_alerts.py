"""Alerts over HTTP, to a receiver that is a real server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.alerts import WebhookBody
from services.alerts.senders import SendError, send, sign
from services.alerts.targets import is_public
from tests.api.conftest import Dictate, Start, Watch
from tests.running_server import RunningServer

SECRET = "a secret of sixteen"


class Receiver:
    """Answers the first requests with these statuses, then takes all."""

    def __init__(self, answers: Sequence[int] = ()) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.requests.append(({key.lower(): value for key, value in self.headers.items()}, body))
                number = len(receiver.requests)
                status = answers[number - 1] if number <= len(answers) else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", receiver.url)
                self.end_headers()
                if status == 204:
                    receiver.taken.set()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(answers=[500])
    yield made
    made.close()


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the plugins that Apprise imports
def test_apprise_delivers_what_a_receiver_refused_at_first(
    serve: Callable[..., RunningServer], receiver: Receiver, body: dict[str, Any]
) -> None:
    with httpx.Client(base_url=serve(alert_private_targets=True).url, timeout=30) as http:
        url = receiver.url.replace("http://", "json://")
        channel = http.post("/api/v2/alerts/channels", json={"name": "c", "kind": "apprise", "url": url}).json()
        rule = {"name": "r", "kind": "status", "statuses": ["running"], "channels": [channel["id"]]}
        http.post("/api/v2/alerts/rules", json=rule).raise_for_status()
        http.post("/api/v2/training/start", json=body | {"task_id": "watched"}).raise_for_status()
        assert receiver.taken.wait(30)
    assert len(receiver.requests) == 2
    sent = json.loads(receiver.requests[-1][1])
    assert sent["title"] == "r"
    assert sent["message"].startswith("watched: ")


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


@pytest.mark.parametrize(("status", "is_final"), [(302, False), (500, False), (410, True)])
def test_what_is_no_success_is_a_failure_and_a_redirect_is_not_followed(status: int, is_final: bool) -> None:
    receiver = Receiver(answers=[status])
    try:
        channel = {"kind": "webhook", "url": receiver.url, "secret": None}
        body = WebhookBody(type="alert.test", timestamp=datetime.now(UTC), data={})
        with pytest.raises(SendError, match=str(status)) as caught:
            send(channel, "msg_1", body, allow_private=True)
        assert caught.value.final is is_final
        assert len(receiver.requests) == 1
    finally:
        receiver.close()


def test_a_rule_may_stop_its_task_and_says_so(http: httpx.Client, dictate: Dictate, start: Start, watch: Watch) -> None:
    rule = {"name": "hopeless", "kind": "threshold", "condition": "val_loss > 9", "action": "stop"}
    http.post("/api/v2/alerts/rules", json=rule).raise_for_status()
    dictation = dictate()
    task_id = start()
    dictation.say("Epoch [1/2] started", "Validation Loss: 9.5")
    events = list(watch(task_id).events())
    assert (events[-1].entry["status"], events[-1].entry["reason"]) == ("cancelled", "alert")
    assert any("hopeless" in event.entry["message"] for event in events)
    assert http.get(f"/api/v2/training/{task_id}").json()["alerts"] == 1


def test_a_deleted_rule_leaves_no_firing_and_a_deleted_task_no_count(
    http: httpx.Client, dictate: Dictate, start: Start, watch: Watch, tmp_path: Path
) -> None:
    added = http.post("/api/v2/alerts/rules", json={"name": "over", "kind": "status", "statuses": ["completed"]}).json()
    dictation = dictate()
    dictation.end()
    task_id = start(task_id="counted")
    list(watch(task_id).events())
    deadline = time.monotonic() + 20
    while not http.get("/api/v2/alerts", params={"task_id": task_id}).json()["alerts"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    http.delete(f"/api/v2/training/{task_id}").raise_for_status()
    http.delete(f"/api/v2/alerts/rules/{added['id']}").raise_for_status()
    assert http.get("/api/v2/alerts", params={"task_id": task_id}).json()["alerts"] == []
    dictate().end()
    start(task_id="counted", save_path=str(tmp_path / "again"))
    assert "alerts" not in http.get("/api/v2/training/counted").json()


def add(http: httpx.Client, what: str, **fields: Any) -> int:
    answer = http.post(f"/api/v2/alerts/{what}", json=fields)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])


def wait_for(find: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def deliveries(http: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    alerts = http.get("/api/v2/alerts", params={"task_id": task_id}).json()["alerts"]
    return [delivery for alert in alerts for delivery in alert.get("deliveries", ())]


def test_a_rule_whose_name_changes_goes_on_and_one_whose_condition_changes_begins_anew(
    http: httpx.Client, dictate: Dictate, start: Start
) -> None:
    dictation = dictate()
    task_id = start()
    rule = add(http, "rules", name="high", kind="threshold", condition="val_loss > 2", task_id=task_id)

    def fired() -> list[str]:
        alerts = http.get("/api/v2/alerts", params={"task_id": task_id}).json()["alerts"]
        return [alert["message"] for alert in reversed(alerts)]

    dictation.say("Epoch [1/9] started", "Validation Loss: 3")
    wait_for(fired)
    changed = http.patch(f"/api/v2/alerts/rules/{rule}", json={"name": "still high", "action": None})
    assert changed.json()["name"] == "still high"
    dictation.say("Validation Loss: 4", "Validation Loss: 1", "Validation Loss: 5")
    wait_for(lambda: len(fired()) > 1)
    http.patch(f"/api/v2/alerts/rules/{rule}", json={"value": 2.5}).raise_for_status()
    dictation.say("Validation Loss: 6")
    wait_for(lambda: len(fired()) > 2)
    assert fired() == ["val_loss is 3, > 2", "val_loss is 5, > 2", "val_loss is 6, > 2.5"]
    http.delete(f"/api/v2/alerts/rules/{rule}").raise_for_status()


def test_no_improvement_of_a_metric_of_unknown_goal_wants_one(http: httpx.Client) -> None:
    rule = {"name": "r", "kind": "no_improvement", "metric": "gizmo", "epochs": 3}
    refused = http.post("/api/v2/alerts/rules", json=rule)
    assert refused.status_code == 422
    assert [problem["field"] for problem in refused.json()["errors"]] == ["goal"]
    key = add(http, "rules", **rule, goal="max")
    http.delete(f"/api/v2/alerts/rules/{key}").raise_for_status()


def test_a_task_that_is_cancelled_while_it_waits_names_the_rule(
    serve: Callable[..., RunningServer], body: dict[str, Any]
) -> None:
    server = serve(max_training_concurrent_cpu=0)
    with httpx.Client(base_url=server.url, timeout=30) as http:
        add(http, "rules", name="no waiting", kind="status", statuses=["queued"], action="stop")
        task_id = http.post("/api/v2/training/start", json=body).json()["task_id"]
        status = wait_for(
            lambda: (found := http.get(f"/api/v2/training/{task_id}").json())["status"] == "cancelled" and found
        )
        assert status["reason"] == "alert"
        lines = http.get(f"/api/v2/training/{task_id}/logs/history").json()["entries"]
        assert any("no waiting" in line["message"] for line in lines)


def test_older_alerts_are_paged_to(http: httpx.Client, dictate: Dictate, start: Start) -> None:
    dictation = dictate()
    task_id = start()
    rules = [add(http, "rules", name=f"r{n}", kind="pattern", pattern="at once", task_id=task_id) for n in range(3)]
    dictation.say("all at once")

    def page(**query: Any) -> list[dict[str, Any]]:
        return list(http.get("/api/v2/alerts", params={"task_id": task_id, "limit": 2, **query}).json()["alerts"])

    oldest = wait_for(lambda: (found := page()) and page(before=found[-1]["id"]))
    assert len(oldest) == 1
    assert {alert["rule_id"] for alert in [*page(), *oldest]} == set(rules)
    for rule in rules:
        http.delete(f"/api/v2/alerts/rules/{rule}").raise_for_status()


def test_a_receiver_that_is_gone_for_good_is_told_once(
    serve: Callable[..., RunningServer], body: dict[str, Any]
) -> None:
    receiver = Receiver(answers=[410, 410])
    try:
        with httpx.Client(base_url=serve(alert_private_targets=True).url, timeout=30) as http:
            channel = add(http, "channels", name="gone", kind="webhook", url=receiver.url)
            add(http, "rules", name="r", kind="status", statuses=["running"], channels=[channel])
            task_id = http.post("/api/v2/training/start", json=body).json()["task_id"]
            (told,) = wait_for(lambda: [each for each in deliveries(http, task_id) if each["state"] != "pending"])
            assert told == {"channel_id": channel, "state": "failed", "tries": 1, "error": "the receiver answered 410"}
            assert len(receiver.requests) == 1
    finally:
        receiver.close()


def test_a_dead_receiver_delays_neither_another_nor_the_training(
    serve: Callable[..., RunningServer], body: dict[str, Any]
) -> None:
    receiver = Receiver()
    with socket.create_server(("127.0.0.1", 0)) as dead:  # connects, and is never answered
        url = f"http://127.0.0.1:{dead.getsockname()[1]}/"
        with httpx.Client(base_url=serve(alert_private_targets=True).url, timeout=30) as http:
            channels = [
                add(http, "channels", name="dead", kind="webhook", url=url),
                add(http, "channels", name="well", kind="webhook", url=receiver.url),
            ]
            add(http, "rules", name="r", kind="status", statuses=["running", "completed"], channels=channels)
            task_id = http.post("/api/v2/training/start", json=body).json()["task_id"]
            wait_for(lambda: len(receiver.requests) == 2)
            tries = {each["tries"] for each in deliveries(http, task_id) if each["channel_id"] == channels[0]}
            assert tries == {0}, "the other one was told after the dead one had been waited for"
            assert http.get(f"/api/v2/training/{task_id}").json()["status"] == "completed"
    receiver.close()
