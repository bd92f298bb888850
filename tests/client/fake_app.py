"""A stand-in for the service, run as a program: enough of the contract for the demonstration script.

`FAKE` in the environment says how its one training ends: `completed`, `failed`, or `endless`, which runs
until it is stopped; with `dies` the program ends at its start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

HOW = os.environ.get("FAKE", "completed")
NOW = "2025-01-01T00:00:00"
STOPPED = Event()
VALUES = {
    "train_loss": 0.5,
    "train_acc": 82.45,
    "val_loss": 0.6,
    "val_acc": 78.9,
    "macro_f1": 0.76,
    "micro_f1": 0.78,
    "mAP": 0.81,
    "top1_acc": 78.9,
    "top3_acc": 92.3,
    "top5_acc": 96.7,
    "precision": 0.7,
    "recall": 0.71,
    "learning_rate": 0.001,
    "best_acc": 79.1,
}
TASK: dict[str, Any] = {
    "task_id": "t",
    "task_type": "training",
    "status": "running",
    "progress": 50,
    "device": "cpu",
    "created_at": NOW,
    "updated_at": NOW,
}


def entry(message: str, **more: Any) -> dict[str, Any]:
    return {"timestamp": NOW, "level": "INFO", "message": message, **more}


LINES = [
    entry("Epoch [1/2] started", metrics={"epoch": 1, "total_epochs": 2}),
    entry("Step [1/9]", metrics={"epoch": 1, "total_steps": 9, "throughput": 840.4, "eta": 2.2}, step=1),
    entry("[bold]it is \x1b[31mhot\x1b[0m\x1b]0;title\x07", level="WARNING"),
    entry("Train Loss: 0.5", metrics={"epoch": 1, **VALUES}),
    entry("Epoch [2/2] started", metrics={"epoch": 2}),
    entry("Train Loss: 0.5", metrics={"epoch": 2, **VALUES}),
]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or "{}")
        if self.path.endswith("/stop"):
            STOPPED.set()
            self.answer({"status": "success", "message": "stopping", "task_id": "t"})
        elif body["num_epochs"] < 1:
            self.answer({"detail": "num_epochs: must be at least 1", "code": "invalid_request"}, 422)
        else:
            self.answer({**TASK, "status": "pending", "progress": 0, "warnings": ["colour is ignored"]})

    def do_GET(self) -> None:
        if self.path == "/api/v1/health":
            self.answer({"status": "ok", "version": "0", "running": 0, "queued": 0, "storage": "ok"})
        elif self.path.endswith("/logs"):
            self.stream()
        else:
            self.answer(TASK)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        after = int(self.headers.get("Last-Event-ID", "0"))
        for number, line in enumerate(LINES, start=1):
            self.send(number, line, after)
        if HOW == "endless":
            STOPPED.wait(60)
        status = "cancelled" if STOPPED.is_set() else HOW
        TASK.update(status=status, latest_metrics={"epoch": 2, **VALUES})
        if status == "failed":
            TASK["error"] = "The disk is full."
        self.send(len(LINES) + 1, entry("任务结束", status=status), after)

    def send(self, number: int, line: dict[str, Any], after: int) -> None:
        if number > after:
            self.wfile.write(f"id: {number}\ndata: {json.dumps(line)}\n\n".encode())


def main() -> None:
    if HOW == "dies":
        sys.exit("the address is taken")
    server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.05)
    print("goodbye", flush=True)


if __name__ == "__main__":
    main()
