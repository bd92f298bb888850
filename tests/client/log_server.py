"""A real HTTP server on loopback that serves one log and loses connections as it is told.

A mock cannot show what the network does to a stream: half a line, half a character, a reset.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


class Ending(Enum):
    """How a connection ends."""

    HOLD = "stays open until the test is over, as behind a proxy that does not pass the end on"
    CLOSE = "the answer ends well"
    DROP = "the connection closes in the middle of the answer"
    RESET = "the connection is reset"


@dataclass
class Log:
    """What the server serves, how its connections go, and what it was asked."""

    messages: list[str]
    connections: list[tuple[int, Ending]] = field(default_factory=list)
    """For each connection the bytes it carries and how it ends; after these, all bytes and `CLOSE`."""
    chunk: int = 1 << 16
    asked: list[int] = field(default_factory=list)
    """`Last-Event-ID` of every connection."""
    over: Event = field(default_factory=Event)

    def frame(self, number: int) -> bytes:
        last = number == len(self.messages)
        entry = {
            "timestamp": "2025-01-01T00:00:00",
            "level": "INFO",
            "message": "任务结束" if last else self.messages[number - 1],
            **({"status": "completed"} if last else {}),
        }
        return f"id: {number}\r\ndata: {json.dumps(entry, ensure_ascii=False)}\r\n\r\n: ping\r\n\r\n".encode()


@contextmanager
def serving(log: Log) -> Iterator[str]:
    """Serve the log on a free port; yields the server's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
            """Tests should be quiet."""

        def do_GET(self) -> None:
            after = int(self.headers.get("Last-Event-ID", "0"))
            log.asked.append(after)
            size, ending = log.connections.pop(0) if log.connections else (1 << 30, Ending.CLOSE)
            if after >= len(log.messages):
                self.send_response(204)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            frames = (log.frame(number) for number in range(after + 1, len(log.messages) + 1))
            body = (b"retry: 3000\r\n\r\n" + b"".join(frames))[:size]
            for start in range(0, len(body), log.chunk):
                piece = body[start : start + log.chunk]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.close_connection = True
            if ending is Ending.HOLD:
                log.over.wait(60)
            elif ending is Ending.CLOSE:
                self.wfile.write(b"0\r\n\r\n")
            elif ending is Ending.RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        log.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
