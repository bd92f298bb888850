"""The real application behind a real socket, on a thread of the test's own process."""

from __future__ import annotations

import socket
import threading

import uvicorn
from fastapi import FastAPI

from api.connections import MOST_CONNECTIONS, bounded_protocol
from services.training_service import TrainingService


class RunningServer:
    """Answers on `url` from construction to `stop`."""

    def __init__(self, app: FastAPI, port: int = 0) -> None:
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._app = app
        started = threading.Event()
        protocol = bounded_protocol(request_timeout_s=30, max_connections=MOST_CONNECTIONS)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, http=protocol)

        class Announcing(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                started.set()

        self._server = Announcing(config)
        app.state.end = self._end
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="test-server")
        self._thread.start()
        assert started.wait(30), "the server did not start"

    def _end(self) -> None:
        self._server.should_exit = True

    @property
    def service(self) -> TrainingService:
        service = self._app.state.service
        assert isinstance(service, TrainingService)
        return service

    def stop(self) -> None:
        """End it in an orderly way; open streams are cut. Does nothing the second time."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"
        self._socket.close()
