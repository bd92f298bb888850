"""训练接口: metrics of a task's whole life, and of several tasks side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.responses import StreamingResponse

from api.deps import History, Service, TaskIdPath
from api.errors import documented
from api.routers.provenance import record_of
from models.history import ComparisonResponse, MetricsResponse
from services.errors import InvalidRequest
from services.history.axis import Axis, began_at
from services.history.comparison import Comparison, Row
from services.history.export import MEDIA_TYPES, SUFFIXES, Format, export
from services.history.series import LAST_LINE, Series, Window
from services.log_entry import local_time
from services.task_state import TaskState

router = APIRouter(prefix="/api/v2/training", tags=["训练接口"])

MOST_TASKS = 50
_LONGEST_NAMES = 2_000
_LONGEST_IDS = 2_500
"""Characters: a URL may have 64 KiB, and a character outside ASCII takes up to twelve bytes of it."""

Names = Annotated[
    str | None,
    Query(description="指标名称 names of the metrics, separated by commas; default: all", max_length=_LONGEST_NAMES),
]
X = Annotated[Axis, Query(description="横轴 what the horizontal axis counts; time: seconds since the task first ran")]
MaxPoints = Annotated[int, Query(ge=16, le=100_000, description="of each series; the extremes are always among them")]


@router.get(
    "/compare",
    summary="对比训练任务",
    responses={
        200: {"model": ComparisonResponse, "description": "Their series on one axis, and a table of them"},
        **documented(401, 403, 404, 422, 503),
    },
)
def compare_training(
    service: Service,
    history: History,
    ids: Annotated[
        str, Query(description="任务标识 ids of 2 to 50 tasks, separated by commas", max_length=_LONGEST_IDS)
    ],
    names: Names = None,
    x: X = "epoch",
    max_points: MaxPoints = 2000,
) -> Response:
    """对齐多个任务的指标. Aligns tasks on epochs, steps or the time since they began.

    `table` has the best and the last value of each metric and how long it took, `differences` what the requests do not
    have in common. Accuracies are percent here, whatever the logs print.
    """
    task_ids = list(dict.fromkeys(filter(None, (each.strip() for each in ids.split(",")))))
    if not 2 <= len(task_ids) <= MOST_TASKS:
        raise InvalidRequest.of_field("ids", f"name 2 to {MOST_TASKS} different tasks, separated by commas.")
    states = [service.get_task(task_id) for task_id in task_ids]
    comparison = Comparison(history)
    wanted = _split(names)
    series = comparison.series(states, wanted, x, Window(max_points=max_points))
    return _answer(
        {
            "x": x,
            "tasks": [_task(state) for state in states],
            "series": [{"task_id": task_id, **_columns(each)} for task_id, each in series],
            "table": [_row(row) for row in comparison.table(states, series)],
            "differences": [
                {"field": field, "values": values} for field, values in comparison.differences(states).items()
            ],
        }
    )


@router.get(
    "/{task_id}/metrics",
    summary="查询指标历史",
    responses={
        200: {"model": MetricsResponse, "description": "Series of the task's metrics"},
        **documented(401, 403, 404, 422, 503),
    },
)
def get_metric_history(
    task_id: TaskIdPath,
    service: Service,
    history: History,
    names: Names = None,
    after: Annotated[int, Query(ge=0, le=LAST_LINE, description="only points behind this line")] = 0,
    before: Annotated[int, Query(ge=0, le=LAST_LINE, description="only points ahead of this line")] = LAST_LINE,
    x: X = "epoch",
    max_points: MaxPoints = 2000,
    attempts: Annotated[
        str, Query(pattern="^(last|all)$", description="all: also epochs that a later attempt has trained again")
    ] = "last",
) -> Response:
    """任务全过程的指标曲线. The whole course of each metric; each point carries the number of its log line.

    A series with more than `max_points` is thinned so that the lowest and the highest point of each part of it stay: a
    spike never vanishes. To follow a task, ask again with `after` set to the `last_id` of the answer before, and read
    from the start when `revision` has changed.
    """
    state = service.get_task(task_id)
    window = Window(after, before, max_points, attempts == "all")
    return _answer(
        {
            "task_id": task_id,
            "x": x,
            "revision": state.revision,
            "last_id": state.last_seq,
            "series": [_columns(each) for each in history.read(state, _split(names), x, window)],
        }
    )


@router.get(
    "/{task_id}/metrics/export",
    summary="导出指标",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A file",
            "content": {media_type.partition(";")[0]: {} for media_type in MEDIA_TYPES.values()},
        },
        **documented(401, 403, 404, 422, 503),
    },
)
def export_metrics(
    task_id: TaskIdPath,
    service: Service,
    history: History,
    names: Names = None,
    format: Annotated[Format, Query(description="文件格式")] = "csv",  # noqa: A002 - the parameter's public name
    attempts: Annotated[
        str, Query(pattern="^(last|all)$", description="all: also epochs that a later attempt has trained again")
    ] = "last",
) -> Response:
    """导出为 CSV、JSON Lines 或 TensorBoard 事件文件. Every point, none left out.

    Put the `tensorboard` file into a folder of its own and start `tensorboard --logdir` on that. In CSV a name that a
    spreadsheet would take for a formula has an apostrophe in front.
    """
    state = service.get_task(task_id)
    about = None
    if format == "tensorboard":
        known = json.dumps(record_of(service, task_id), ensure_ascii=False, indent=1, default=str)
        about = f"```json\n{known}\n```"
    pieces = export(history, state, _split(names), format, Window(all_attempts=attempts == "all"), about)
    prefix = "events.out" if format == "tensorboard" else "metrics"
    headers = {"Content-Disposition": f'attachment; filename="{prefix}.{SUFFIXES[format]}.{_plain(task_id)}"'}
    if format != "tensorboard":
        headers["Content-Disposition"] = f'attachment; filename="{_plain(task_id)}.{SUFFIXES[format]}"'
    return StreamingResponse(pieces, media_type=MEDIA_TYPES[format], headers=headers)


def _split(names: str | None) -> list[str] | None:
    found = [name.strip() for name in (names or "").split(",")]
    return [name for name in found if name] or None


def _plain(task_id: str) -> str:
    """A task's id in a header: one that code has made up may have any characters."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in task_id)


def _answer(content: dict[str, Any]) -> Response:
    """Columns of numbers go out as they are: through a model, 100,000 of them would take as long as reading them."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body, media_type="application/json")


def _columns(series: Series) -> dict[str, Any]:
    points = series.points
    columns: dict[str, Any] = {"name": series.name}
    if series.unit:
        columns["unit"] = series.unit
    columns |= {
        "total": series.total,
        "ids": [point.seq for point in points],
        "x": [series.place(point) for point in points],
        "values": [point.value for point in points],
    }
    if any(point.epoch is not None for point in points):
        columns["epochs"] = [point.epoch for point in points]
    if any(point.attempt > 1 for point in points):
        columns["attempts"] = [point.attempt for point in points]
    return columns


def _task(state: TaskState) -> dict[str, Any]:
    begin = began_at(state)
    end = state.updated_at if state.status.is_terminal else datetime.now(UTC)
    task = {
        "task_id": state.task_id,
        "name": state.name,
        "status": state.status.value,
        "model": state.request.get("model"),
        "created_at": local_time(state.created_at).isoformat(),
        "progress": state.progress,
        "duration_s": round(max(0.0, (end - begin).total_seconds()), 3),
    }
    return {name: value for name, value in task.items() if value is not None}


def _row(row: Row) -> dict[str, Any]:
    optional = {"unit": row.unit, "goal": row.goal}
    return {
        "metric": row.metric,
        **{name: value for name, value in optional.items() if value is not None},
        "tasks": {task_id: _standing(standing) for task_id, standing in row.standings.items()},
    }


def _standing(standing: Any) -> dict[str, Any]:
    names: Sequence[str] = ("best", "best_id", "best_epoch", "time_to_best_s")
    optional = {name: getattr(standing, name) for name in names}
    return {
        **{name: value for name, value in optional.items() if value is not None},
        "last": standing.last,
        "last_id": standing.last_id,
    }
