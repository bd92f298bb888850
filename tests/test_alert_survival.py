"""Every rule fires once, though the service is killed while its receiver refuses."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service_process import APP, ServiceProcess

ALERTS = "/api/v2/alerts"
KILLS = 4
LOG = "".join(
    f"Epoch [{epoch}/9] started\nTrain Loss: {loss}, Val Loss: 3.0\nCUDA error: out of memory\n"
    for epoch, loss in enumerate(("1.0", "nan", "nan", "1.0"), 1)
)
RULES: list[dict[str, Any]] = [
    {"kind": "threshold", "condition": "val_loss > 2 for 2 epochs"},
    {"kind": "not_finite"},
    {"kind": "no_improvement", "metric": "val_loss", "epochs": 2},
    {"kind": "pattern", "pattern": "out of memory"},
    {"kind": "status", "statuses": ["running"], "reasons": ["device_free"]},
    {"kind": "silence", "minutes": 0.02},
]


@pytest.mark.timeout(120)
def test_each_rule_fires_once_over_a_kill_to_a_receiver_that_fails_twice_and_is_slow_once(tmp_path: Path) -> None:
    requests: list[str] = []
    taken: list[tuple[str, Any]] = []
    failed, complete, release = threading.Event(), threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            requests.append(self.headers["webhook-id"])
            number = len(requests)
            if number == 3:
                release.wait(2)
            self.send_response(500 if number <= 2 else 200)
            self.end_headers()
            if number <= 2:
                failed.set()
                return
            taken.append((self.headers["webhook-id"], body["data"]["kind"]))
            if len({kind for _, kind in taken}) == len(RULES):
                complete.set()

        def log_message(self, *_: Any) -> None:
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_port}/"
    log = tmp_path / "train.log"
    log.write_text(LOG)
    environment = {"ALERT_PRIVATE_TARGETS": "true"}
    with ServiceProcess(APP, folder=tmp_path, **environment) as first, httpx.Client(timeout=30) as http:
        base = first.start().url
        (default,) = http.get(f"{base}{ALERTS}/rules").json()["rules"]
        http.delete(f"{base}{ALERTS}/rules/{default['id']}")
        channel = {"name": "c", "kind": "webhook", "url": url}
        key = http.post(f"{base}{ALERTS}/channels", json=channel).json()["id"]
        for rule in RULES:
            answer = http.post(f"{base}{ALERTS}/rules", json={"name": rule["kind"], "channels": [key], **rule})
            assert answer.status_code == 200, answer.text
        answer = http.post(f"{base}/api/v2/training/import", json={"path": str(log), "follow": True, "task_id": "t"})
        assert answer.status_code < 300, answer.text
        assert failed.wait(30)
        first.end(signal.SIGKILL)
    with ServiceProcess(APP, folder=tmp_path, **environment) as second, httpx.Client(timeout=30) as http:
        base = second.start().url
        is_complete = complete.wait(60)
        alerts = http.get(f"{base}{ALERTS}", params={"task_id": "t"}).json()["alerts"]
        assert is_complete, (taken, alerts)
    receiver.shutdown()
    receiver.server_close()
    kinds = sorted(alert["kind"] for alert in alerts if alert["kind"] != "silence")
    assert kinds == sorted(rule["kind"] for rule in RULES if rule["kind"] != "silence")
    silences = [alert["line_id"] for alert in alerts if alert["kind"] == "silence"]
    assert len(silences) == len(set(silences))  # the lines of the restart end one, and begin another


@pytest.mark.timeout(240)
def test_firings_and_deliveries_are_complete_however_often_the_service_is_killed(tmp_path: Path) -> None:
    """A metric goes up and down: it must fire at each rise, once, and the receiver must hear of each under one id."""
    chance = random.Random(5)
    taken: defaultdict[str, set[int]] = defaultdict(set)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            is_refused = chance.random() < 0.1
            self.send_response(503 if is_refused else 200)
            self.end_headers()
            if not is_refused:
                taken[self.headers["webhook-id"]].add(body["data"]["alert_id"])

        def log_message(self, *_: Any) -> None:
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    log = tmp_path / "train.log"
    log.write_text("Epoch [1/9] started\n")
    written, stop = 0, threading.Event()

    def write() -> None:
        nonlocal written
        with log.open("a") as file:
            while not stop.wait(0.1):
                file.write("Val Loss: 3.0\nVal Loss: 1.0\n")
                file.flush()
                written += 1

    writer = threading.Thread(target=write)
    environment = {"ALERT_PRIVATE_TARGETS": "true"}
    for number in range(KILLS):
        with ServiceProcess(APP, folder=tmp_path, **environment) as service, httpx.Client(timeout=30) as http:
            base = service.start().url
            if number == 0:
                channel = {"name": "c", "kind": "webhook", "url": f"http://127.0.0.1:{receiver.server_port}/"}
                key = http.post(f"{base}{ALERTS}/channels", json=channel).json()["id"]
                rule = {"name": "up", "kind": "threshold", "condition": "val_loss > 2", "channels": [key]}
                http.post(f"{base}{ALERTS}/rules", json=rule).raise_for_status()
                followed = {"path": str(log), "follow": True, "task_id": "t"}
                http.post(f"{base}/api/v2/training/import", json=followed).raise_for_status()
                writer.start()
            time.sleep(chance.uniform(0.1, 1.5))  # a kill comes when it comes
            service.end(signal.SIGKILL)
    stop.set()
    writer.join()
    with ServiceProcess(APP, folder=tmp_path, **environment) as last, httpx.Client(timeout=30) as http:
        base = last.start().url
        deadline = time.monotonic() + 120
        while True:
            alerts = every_alert(http, base)
            states = {each["state"] for alert in alerts for each in alert["deliveries"]}
            if len(alerts) >= written and states == {"delivered"}:
                break
            assert time.monotonic() < deadline, (len(alerts), written, states)
            time.sleep(0.1)
    receiver.shutdown()
    receiver.server_close()
    assert len({alert["line_id"] for alert in alerts}) == len(alerts) == written
    assert all(len(firings) == 1 for firings in taken.values())
    assert {firing for firings in taken.values() for firing in firings} == {alert["id"] for alert in alerts}
    assert len(taken) == len(alerts)


def every_alert(http: httpx.Client, base: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        query = {"limit": 500} | ({"before": found[-1]["id"]} if found else {})
        page = http.get(f"{base}{ALERTS}", params=query).json()["alerts"]
        if not page:
            return found
        found += page
