"""训练接口: one stream of what happens to all tasks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from sse_starlette import EventSourceResponse

from api.deps import Service
from api.errors import documented
from api.streams import LogStream
from services.errors import InvalidRequest
from services.events import EVENT_TYPES, Cursor

router = APIRouter(prefix="/api/v2/training", tags=["训练接口"])

EVENTS_DESCRIPTION = """\
一个连接接收所有任务的事件. Everything that happens to all tasks, or to some, over one connection.

Each event is named by its type, and its data is JSON with the `task_id`:

| 事件 event | 含义 meaning |
|---|---|
| `log` | 一行日志, a line of a log: what `/logs` sends, with the line's number as `id` |
| `metric` | a line with `metrics` |
| `status` | a line with which the task takes another `status`, and why; with `"deleted": true` the task is gone |
| `alert` | 告警, a rule has fired |
| `reset` | the log of the task was read anew, as its `revision` says: ask for its status and metrics again; \
without a `task_id` anything may have changed |

Each line is exactly one event, of the type furthest down that fits. `id` is a cursor over all tasks that outlives
restarts: after a lost connection a browser goes on where it was, by itself. The stream begins now; to begin with what
is there, take `event_id` from the list of tasks and follow from there with `?after=`.

```javascript
const source = new EventSource("/api/v2/training/events");
source.addEventListener("metric", (event) => {
  const { task_id, metrics } = JSON.parse(event.data);
  console.log(task_id, metrics);
});
```
"""


@router.get(
    "/events",
    summary="获取所有任务的事件流",
    description=EVENTS_DESCRIPTION,
    response_class=EventSourceResponse,
    responses={
        200: {"description": "A stream of events", "content": {"text/event-stream": {}}},
        **documented(401, 403, 422, 503),
    },
)
async def get_events(
    service: Service,
    ids: Annotated[
        str, Query(description="任务标识 of these tasks only, separated by commas; default: all", max_length=7_000)
    ] = "",
    types: Annotated[
        str,
        Query(description=f"事件类型 of {', '.join(EVENT_TYPES)}, separated by commas; default: all", max_length=100),
    ] = "",
    after: Annotated[str | None, Query(description="cursor of the last event already seen", max_length=40)] = None,
    last_event_id: Annotated[str | None, Header(description="as `after`, and wins over it")] = None,
) -> Response:
    wanted = _split(types)
    unknown = sorted(wanted - set(EVENT_TYPES))
    if unknown:
        message = f"there are no events {', '.join(unknown)}; there are {', '.join(EVENT_TYPES)}."
        raise InvalidRequest.of_field("types", message)
    cursor = Cursor.parse(last_event_id or "")
    if cursor is None and after is not None:
        cursor = Cursor.parse(after)
        if cursor is None:
            message = "this is no cursor; take the `id` of an event, or `event_id` of the list."
            raise InvalidRequest.of_field("after", message)
    return LogStream(service.events.follow(cursor, _split(ids), wanted or EVENT_TYPES))


def _split(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",")) - {""}
