"""A viewer: follows a task's stream and reads it with an SSE parser that is not ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, NamedTuple

import httpx
from httpx_sse import EventSource

from services.base_service import BaseService
from services.task_state import TaskState

TIMEOUT_S = 30


class Frame(NamedTuple):
    id: int
    entry: dict[str, Any]


def read_frames(stream: bytes) -> list[Frame]:
    """The events in a piece of a stream that ends between two of them."""
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, content=stream)
    frames = []
    for event in EventSource(response).iter_sse():
        assert event.event == "message", "an entry is an unnamed event"
        frames.append(Frame(int(event.id), json.loads(event.data)))
    return frames


async def follow(
    service: BaseService,
    task_id: str,
    after: int = 0,
    *,
    until: Callable[[Frame], bool] | None = None,
    metrics: frozenset[str] | None = None,
) -> list[Frame]:
    """What a viewer gets, to the end of the stream or to the frame that `until` picks."""
    frames: list[Frame] = []
    stream = service.stream_logs(task_id, after, metrics)
    async with asyncio.timeout(TIMEOUT_S), aclosing(stream):
        async for chunk in stream:
            new = read_frames(chunk)
            frames += new
            if until is not None and any(map(until, new)):
                break
    return frames


def says(message: str) -> Callable[[Frame], bool]:
    return lambda frame: frame.entry["message"] == message


def messages(frames: list[Frame]) -> list[str]:
    return [frame.entry["message"] for frame in frames]


def wait_for(service: BaseService, task_id: str, message: str) -> None:
    """Return once a line with this message is out."""
    frames = asyncio.run(follow(service, task_id, until=says(message)))
    assert message in messages(frames), f"{task_id} ended without saying {message!r}: {messages(frames)}"


def wait_for_end(service: BaseService, task_id: str) -> TaskState:
    """The state that a task has ended in."""
    asyncio.run(follow(service, task_id))
    return service.get_task(task_id)
