"""The other side of a status: a plain FastAPI route with a response model of the same fields, in the same server.

    python -m benchmarks.peers.plain_status ANSWER.json

`GET /async/{id}` and `GET /threaded/{id}` are the route as `async def` and as `def`. What they answer is read from
the file once and kept as a model: nothing is looked up, folded or guarded. `POST /train` trains in a thread of this
process, as an application does that has been written for one training: with all of torch's defaults.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from app_refactored import server_config
from models.schemas import TaskResponse, TrainingRequest
from settings import Settings


class Clock(logging.Handler):
    """When each epoch began, and when something was said last."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[float] = []
        self.last = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.last = time.perf_counter()
        if record.getMessage().endswith("started"):
            self.epochs.append(self.last)


class Training:
    """A training in a thread: what is known of it is what a benchmark asks for."""

    def __init__(self, request: TrainingRequest) -> None:
        self._request = request
        self._ended = threading.Event()
        self._clock = Clock()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        from trainer.errors import TrainingStopped
        from trainer.loop import train

        logger = logging.Logger("plain")
        logger.addHandler(self._clock)
        try:
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "run"
                train(self._request, output_dir=output, device="cpu", logger=logger, should_stop=self._ended.is_set)
        except TrainingStopped:
            return

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def describe(self) -> dict[str, Any]:
        epochs = self._clock.epochs
        seconds = self._clock.last - epochs[0] if epochs else 0.0
        return {"epochs": len(epochs), "seconds": seconds, "runs": self._thread.is_alive()}


def plain_app(known: TaskResponse) -> FastAPI:
    app = FastAPI()
    tasks = {known.task_id: known}
    trainings: list[Training] = []

    @app.get("/async/{task_id}", response_model=TaskResponse, response_model_exclude_unset=True)
    async def status(task_id: str) -> TaskResponse:
        return tasks[task_id]

    @app.get("/threaded/{task_id}", response_model=TaskResponse, response_model_exclude_unset=True)
    def threaded_status(task_id: str) -> TaskResponse:
        return tasks[task_id]

    @app.post("/train")
    def train(request: TrainingRequest) -> None:
        trainings.append(Training(request))

    @app.get("/train")
    def training() -> dict[str, Any]:
        return trainings[-1].describe()

    @app.post("/stop")
    def stop() -> None:
        trainings[-1].stop()

    return app


def main() -> None:
    app = plain_app(TaskResponse.model_validate_json(Path(sys.argv[1]).read_bytes()))
    uvicorn.Server(server_config(Settings(), app)).run()


if __name__ == "__main__":
    main()
