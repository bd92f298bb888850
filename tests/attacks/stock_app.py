"""A training service as one writes it in an afternoon, without a thought of strangers: plain FastAPI.

It has the routes and bodies of the real one, as far as the attacks need them. Each attack is tried on both, and must
succeed here, because what fails everywhere proves nothing.

    python -m tests.attacks.stock_app
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

Json = dict[str, Any]


class Pattern(BaseModel):
    name: str
    regex: str


class Trial(BaseModel):
    text: str
    metric_definitions: list[Pattern]


def stock_app() -> FastAPI:
    app = FastAPI()
    tasks: dict[str, Json] = {}
    logs: dict[str, list[str]] = {}

    def accept(body: Json, lines: list[str]) -> Json:
        task_id = body.get("task_id") or str(uuid.uuid4())
        tasks[task_id], logs[task_id] = {"task_id": task_id, "status": "running"}, lines
        return tasks[task_id]

    @app.get("/api/v1/health")
    async def health() -> Json:
        return {"status": "ok"}

    @app.get("/api/v2/training")
    async def list_training() -> Json:
        return {"tasks": list(tasks.values())}

    @app.post("/api/v2/training/start")
    async def start(request: Request) -> Json:
        body = await request.json()
        folder = Path(body["save_path"]) / body.get("name", "run")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(body))
        if body.get("weight_path"):
            import torch

            torch.load(body["weight_path"], weights_only=False)
        return accept(body, [f"Class {name}" for name in os.listdir(body["train_path"])])

    @app.post("/api/v2/training/import")
    async def import_log(request: Request) -> Json:
        body = await request.json()
        with open(body["path"], newline="") as log:
            return accept(body, log.read().split("\n"))

    @app.get("/api/v2/training/{task_id}")
    async def status(task_id: str) -> Json:
        return tasks[task_id]

    @app.post("/api/v2/training/{task_id}/stop")
    async def stop(task_id: str) -> Json:
        tasks[task_id]["status"] = "cancelled"
        return {"status": "success"}

    @app.get("/api/v2/training/{task_id}/logs")
    async def stream(task_id: str) -> StreamingResponse:
        def frames() -> Iterator[str]:
            for line in logs[task_id]:
                yield f"data: {line}\n\n"

        return StreamingResponse(frames(), media_type="text/event-stream")

    @app.post("/api/v2/parsing/try")
    async def try_patterns(trial: Trial) -> list[str]:
        return [each.name for each in trial.metric_definitions if re.search(each.regex, trial.text)]

    return app


if __name__ == "__main__":
    uvicorn.run(stock_app(), port=0)
