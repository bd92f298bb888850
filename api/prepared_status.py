"""The status of a live task, as bytes that are prepared once for each change of it.

People and scripts poll it, many a second, and nearly always get what they got before. So a plain question after a task
that runs is answered before any route is looked for; everything else goes its way, and says the same.
"""

from __future__ import annotations

from typing import NamedTuple

from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from api.observing import RequestCounts
from api.routers.training import answer
from models.schemas import TaskStatus
from services.task_state import TaskState
from services.training_service import TrainingService

PREFIX = "/api/v2/training/"
_WAITING = frozenset({TaskStatus.PENDING, TaskStatus.QUEUED})
"""Their place in the queue changes without them."""
_MOST = 10_000


class _Prepared(NamedTuple):
    state: TaskState
    alerts: int
    is_degraded: bool
    headers: list[tuple[bytes, bytes]]
    body: bytes


class PreparedStatus:
    """ASGI middleware, behind whatever decides who may ask."""

    def __init__(self, app: ASGIApp, state: State, counts: RequestCounts) -> None:
        self._app = app
        self._answered = counts.requests.labels("GET", PREFIX + "{task_id}", "200")
        self._state = state
        self._prepared: dict[str, _Prepared] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and not scope["query_string"]:
            path: str = scope["path"]
            if path.startswith(PREFIX):
                found = self._find(path[len(PREFIX) :])
                if found is not None:
                    self._answered.inc()
                    await send({"type": "http.response.start", "status": 200, "headers": found.headers})
                    await send({"type": "http.response.body", "body": found.body})
                    return
        await self._app(scope, receive, send)

    def _find(self, task_id: str) -> _Prepared | None:
        service: TrainingService = self._state.service
        state = service.tasks.get(task_id)
        if state is None or state.status in _WAITING:
            return None
        alerts, is_degraded = service.alert_counts.get(task_id, 0), service.storage_degraded is not None
        known = self._prepared.get(task_id)
        if known is not None and known.state is state and known[1:3] == (alerts, is_degraded):
            return known
        response = answer(service, state, storage_degraded=is_degraded, with_history=None)[0]
        body = response.model_dump_json(exclude_unset=True).encode()
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        if len(self._prepared) >= _MOST:
            self._prepared.clear()  # of tasks that have ended, most of them
        self._prepared[task_id] = new = _Prepared(state, alerts, is_degraded, headers, body)
        return new
