"""The other side of a stream: sse-starlette as its manual shows it, a queue for each viewer.

FAN_OUT_BEGINS=FILE python -m benchmarks.peers.plain_sse
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import uvicorn
from fastapi import FastAPI
from sse_starlette import EventSourceResponse

from app_refactored import server_config
from benchmarks.fanning.ticks import METRICS, async_ticks
from settings import Settings

Entry = dict[str, Any]


def entry(number: int, line: str) -> Entry:
    """The fields that a line of the service has."""
    known = {"timestamp": datetime.now().isoformat(), "level": "INFO", "message": line}
    return {**known, "metrics": METRICS, "step": number, "stage": "training"}


def plain_app() -> FastAPI:
    queues: set[asyncio.Queue[tuple[int, Entry]]] = set()

    async def write() -> None:
        async for number, line in async_ticks():
            found = entry(number, line)
            for queue in queues:
                queue.put_nowait((number, found))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(write())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/logs")
    async def logs() -> EventSourceResponse:
        queue: asyncio.Queue[tuple[int, Entry]] = asyncio.Queue()
        queues.add(queue)

        async def events() -> AsyncIterator[dict[str, Any]]:
            try:
                while True:
                    number, found = await queue.get()
                    yield {"id": str(number), "data": json.dumps(found)}
            finally:
                queues.discard(queue)

        return EventSourceResponse(events())

    return app


if __name__ == "__main__":
    uvicorn.Server(server_config(Settings(), plain_app())).run()
