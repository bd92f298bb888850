"""Every rule fires once, though the service is killed while its receiver refuses."""

from __future__ import annotations

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service_process import APP, ServiceProcess

ALERTS = "/api/v2/alerts"
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
