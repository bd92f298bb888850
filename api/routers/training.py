"""训练接口: start, watch, stop and list trainings."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from api.deps import NO_NUL, MetricNames, Service, TaskIdPath
from api.errors import documented
from api.streams import LogStream
from api.strict_json import StrictJsonRoute
from models.fields import Level
from models.schemas import (
    ActionResponse,
    CheckResponse,
    DetailedLogEntry,
    ImportRequest,
    LogPage,
    LogReading,
    PriorityChange,
    Stage,
    StartRequest,
    StoredLogEntry,
    TaskPage,
    TaskResponse,
    TaskStatus,
)
from services.log_entry import narrow, to_wire
from services.requests import doubts
from services.task_state import TaskState
from services.training_service import TrainingService

router = APIRouter(prefix="/api/v2/training", tags=["训练接口"], route_class=StrictJsonRoute)

MAX_SEQ = 2**63 - 1
MAX_PAGE_CHARACTERS = 1_000_000
"""Of its lines together; a page ends behind the line that exceeds it. An answer waits in memory until it is read."""
IMPORT_WAIT_S = 10
"""How long the answer to an import waits for the end of the file."""

STATUS_DESCRIPTION = """\
返回任务的状态、进度和最新的训练指标. Status, progress and the latest value of every metric read from the log.

| 字段 field | 含义 meaning |
|---|---|
| `task_id`, `task_type` | 任务标识与类型 |
| `status` | `pending`, `queued`, `running`, `stopping`, `completed`, `failed`, `cancelled`; the last three are final |
| `progress` | 进度 0-100, percent of all epochs |
| `device` | 训练设备, e.g. `cuda:0` or `cpu` |
| `current_epoch`, `total_epochs` | 当前训练轮次 / 总训练轮次 |
| `latest_metrics` | 最新的训练指标, see below |
| `created_at`, `updated_at` | 创建与更新时间, local time |
| `reason`, `error` | why the task ended, where there is something to say |
| `warnings` | e.g. fields of the request that are not known, own patterns that match nothing, too many names |
| `units` | `percent` or `fraction` for each accuracy in `latest_metrics`, of commands and imported logs |
| `name`, `description`, `priority` | as the request gave them |
| `storage` | `degraded` while log lines wait for the disk; nothing is lost |
| `removed_until` | lines up to this one were removed because they were old (`KEEP_LINES_DAYS`), but for a few |
| `attempt` | which run of the task this is, from the second on |
| `history` | every change of status with its reason, time and attempt; left out while it waits, \
runs and completes as it should; `?history=true` gives it always |
| `alerts` | 触发的告警数, how many alerts have fired for the task |
| `queue_position` | 排队位置, 1 = 下一个; place among those that wait for the device, only while it waits |

`latest_metrics` (每个字段都是可选的, each is optional; the built-in trainer's accuracies are percent, other logs keep
their own numbers, see `units`; F1, mAP, precision and recall are fractions; `null` stands for a value that was not
finite):

| 指标 metric | 含义 meaning |
|---|---|
| `epoch`, `total_epochs` | 当前轮次 / 总轮次 |
| `train_loss`, `train_acc` | 训练损失 / 训练准确率 (%) |
| `val_loss`, `val_acc` | 验证损失 / 验证准确率 (%) |
| `macro_f1`, `micro_f1` | 宏平均F1 / 微平均F1 |
| `mAP` | 平均精度均值 mean of per-class average precision |
| `precision`, `recall` | 精确率 / 召回率, macro averages |
| `macro_precision`, `macro_recall`, `micro_precision`, `micro_recall` | the same, by the name of their average |
| `top1_acc`, `top3_acc`, `top5_acc` | Top-k 准确率 (%) |
| `best_acc` | 最佳验证准确率 (%) |
| `learning_rate` | 学习率 |
| `total_steps`, `throughput`, `eta` | steps per epoch, images per second, seconds left in the epoch |
"""

LOGS_DESCRIPTION = """\
以 Server-Sent Events 实时返回训练日志. Every viewer gets every line.
Each log entry is one unnamed event; its data is JSON:

| 字段 field | 含义 meaning |
|---|---|
| `timestamp` | 时间, local time |
| `level` | `DEBUG`, `INFO`, `WARNING`, `ERROR` |
| `message` | 日志内容 |
| `metrics` | 该行日志中的指标 (可选), metrics read from this line |
| `step` | step within the epoch (可选) |
| `stage` | 训练阶段 stage |
| `status` | on the last entry only, whose `message` is `任务结束`: `completed`, `failed` or `cancelled` |
| `reason` | on the last entry, why the task ended, where there is something to say |
| `attempt` | which run of the task the line belongs to, from the second on |

训练阶段 stages: `epoch_start` 轮次开始, `training` 训练中, `validation` 验证中, `epoch_end` 轮次结束,
`completed` 训练完成.

`id` is the line's number within the task: 1, 2, 3, ... After a lost connection a browser resumes by itself with
`Last-Event-ID`; other clients send that header or `?after=`. When a task has ended the stream replays what is missing
and ends; 204 answers a viewer that has seen the last frame already.

```javascript
const source = new EventSource(`/api/v2/training/${taskId}/logs`);
source.onmessage = (event) => {
  const entry = JSON.parse(event.data);
  console.log(entry.timestamp, entry.level, entry.message);
  if (entry.metrics) console.log(entry.stage, entry.metrics);
  if (entry.status) source.close(); // 任务结束
};
```
"""


def answer(
    service: TrainingService,
    *states: TaskState,
    metrics: frozenset[str] | None = None,
    storage_degraded: bool = False,
    with_history: bool | None = False,
) -> list[TaskResponse]:
    """Tasks as they are answered, those that wait with their places in the queue."""
    answers = [
        state.to_response(metrics=metrics, storage_degraded=storage_degraded, with_history=with_history)
        for state in states
    ]
    waiting = [each for each in answers if each.status in (TaskStatus.PENDING, TaskStatus.QUEUED)]
    places = service.queue_positions() if waiting else {}
    for each in answers:
        if fired := service.alert_counts.get(each.task_id):
            each.alerts = fired
    for each in waiting:
        if each.task_id in places:  # else it has just begun, or is being accepted
            each.queue_position = places[each.task_id]
    return answers


async def _sent(request: Request) -> Any:
    """The body as it was sent: the request that is made of it has defaults, and other types here and there."""
    return await request.json() if await request.body() else None


Sent = Annotated[Any, Depends(_sent)]


def _log_entry_schema() -> dict[str, Any]:
    schema = DetailedLogEntry.model_json_schema(ref_template="#/components/schemas/{model}")
    del schema["$defs"]  # other answers bring them among the components
    return schema


@router.post(
    "/start",
    summary="启动训练任务",
    response_model=TaskResponse,
    response_model_exclude_unset=True,
    responses=documented(400, 401, 403, 409, 422, 429, 503),
)
def start_training(request: Annotated[StartRequest, Body()], service: Service, sent: Sent) -> TaskResponse:
    """检查请求并启动训练. Everything is checked before a device is taken; the task runs, or waits for its device.

    带 `command` 的请求运行自己的训练程序. A body with a `command` runs a trainer of your own, where that is allowed.
    """
    return answer(service, service.start_training(request, sent), with_history=None)[0]


@router.post("/check", summary="检查训练请求", responses=documented(400, 401, 403, 422))
def check_training(request: Annotated[StartRequest, Body()], service: Service) -> CheckResponse:
    """只检查，不启动. What `start` would say of the request itself, without starting anything.

    Whether its `task_id` and its `name` are free shows at the start alone.
    """
    device = service.check_request(request)
    return CheckResponse(device=device, warnings=doubts(request, device))


@router.post(
    "/import",
    summary="导入训练日志",
    response_model=TaskResponse,
    response_model_exclude_unset=True,
    responses=documented(400, 401, 403, 409, 422, 429, 503),
)
async def import_training(request: ImportRequest, service: Service, sent: Sent) -> TaskResponse:
    """把日志文件变成任务. Makes a task of the log file of a training that ran somewhere else.

    The answer waits up to 10 s for the end of the file, so most files are answered as `completed`. With `follow`
    it comes at once, and what is added to the file is read until the task is stopped.
    """
    state = await run_in_threadpool(service.start_training, request, sent)
    if not request.follow:
        await service.wait_for_end(state.task_id, IMPORT_WAIT_S)
    return answer(service, await run_in_threadpool(service.get_task, state.task_id), with_history=None)[0]


@router.get(
    "",
    summary="列出训练任务",
    response_model=TaskPage,
    response_model_exclude_unset=True,
    responses=documented(401, 403, 422, 503),
)
def list_training(
    service: Service,
    metrics: MetricNames,
    status: Annotated[list[TaskStatus] | None, Query(description="only tasks in one of these")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,18}$", description="`next_cursor` of the page before")] = None,
) -> TaskPage:
    """最新的任务在前. Newest first, in pages that stay stable while tasks are added."""
    before = None if cursor is None else int(cursor)
    event_id = str(service.events.end)  # before the tasks are read: nothing is missed between the two
    found = service.list_tasks(status=status or (), before=before, limit=limit + 1)
    page = TaskPage(event_id=event_id, tasks=answer(service, *(state for _, state in found[:limit]), metrics=metrics))
    if len(found) > limit:
        page.next_cursor = str(found[limit - 1][0])
    return page


@router.get(
    "/{task_id}",
    summary="获取训练任务状态（含详细指标）",
    description=STATUS_DESCRIPTION,
    response_model=TaskResponse,
    response_model_exclude_unset=True,
    responses=documented(401, 403, 404, 422, 503),
)
def get_training_status(
    task_id: TaskIdPath,
    service: Service,
    metrics: MetricNames,
    history: Annotated[bool, Query(description="状态历史 always with every change of status")] = False,
) -> TaskResponse:
    is_degraded = task_id in service.tasks and service.storage_degraded is not None
    state = service.get_task(task_id)
    return answer(service, state, metrics=metrics, storage_degraded=is_degraded, with_history=history or None)[0]


@router.patch(
    "/{task_id}",
    summary="修改排队任务的优先级",
    response_model=TaskResponse,
    response_model_exclude_unset=True,
    responses=documented(400, 401, 403, 404, 409, 422, 503),
)
def change_training(task_id: TaskIdPath, change: PriorityChange, service: Service) -> TaskResponse:
    """任务排队期间可以修改优先级. Moves a task that waits to where it would be, had it come with this priority."""
    return answer(service, service.change_priority(task_id, change.priority), with_history=None)[0]


@router.get(
    "/{task_id}/logs",
    summary="获取训练日志流（含详细指标）",
    description=LOGS_DESCRIPTION,
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "A stream of log entries",
            "content": {"text/event-stream": {"schema": _log_entry_schema()}},
        },
        204: {"description": "The viewer has seen the last frame; an EventSource stops here"},
        **documented(401, 403, 404, 422, 503),
    },
)
async def get_training_logs(
    task_id: TaskIdPath,
    service: Service,
    metrics: MetricNames,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="number of the last line already seen")] = 0,
    last_event_id: Annotated[str | None, Header(description="as `after`, and wins over it")] = None,
) -> Response:
    state = await run_in_threadpool(service.get_task, task_id)
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdecimal():
        after = min(int(last_event_id[:20]), MAX_SEQ)
        if state.status.is_terminal and after >= state.last_seq:
            return Response(status_code=204)
    lines = service.stream_logs(task_id, after, metrics)
    if state.removed_until is not None and after < state.removed_until:
        lines = _behind_removed(state.removed_until, lines)
    return LogStream(lines)


async def _behind_removed(last: int, lines: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield b": old lines up to %d were removed, see KEEP_LINES_DAYS\r\n\r\n" % last
    async with aclosing(lines) as each:
        async for chunk in each:
            yield chunk


@router.get(
    "/{task_id}/logs/history",
    summary="查询训练日志历史",
    response_model=LogPage,
    response_model_exclude_unset=True,
    responses=documented(401, 403, 404, 422, 503),
)
def get_log_history(
    task_id: TaskIdPath,
    service: Service,
    metrics: MetricNames,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="number of the last line already seen")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    level: Annotated[
        Level | None, Query(description="only lines of this level, e.g. WARNING, in small or capital letters")
    ] = None,
    stage: Annotated[Stage | None, Query(description="only lines of this stage")] = None,
    contains: Annotated[
        str | None,
        Query(min_length=1, max_length=200, pattern=NO_NUL, description="only lines with this text, in any case"),
    ] = None,
    before: Annotated[
        int | None, Query(ge=1, le=MAX_SEQ, description="the last lines before this number, instead of the first")
    ] = None,
) -> LogPage:
    """分页返回已保存的日志. Stored lines in pages, oldest first; `id` is the id that the line has in the stream.

    A page of long lines has fewer than `limit`. With `before` pages lead backwards, by `next_before`.
    """
    state = service.get_task(task_id)
    attempt = state.attempt
    found = service.store.read_entries(
        task_id, after=after, before=before, limit=limit + 1, level=level, stage=stage, contains=contains
    )
    page, characters = LogPage(task_id=task_id, entries=[]), 0
    if state.removed_until is not None and after < state.removed_until:
        page.removed_until = state.removed_until
    for entry in found[:limit]:
        wire = to_wire(entry, attempt) if metrics is None else narrow(to_wire(entry, attempt), metrics)
        page.entries.append(StoredLogEntry(id=entry.seq, **wire))
        characters += len(entry.message)
        if characters > MAX_PAGE_CHARACTERS:
            break
    is_more = len(found) > len(page.entries)
    if before is not None:
        page.entries.reverse()
    if is_more and before is None:
        page.next_after = page.entries[-1].id
    elif is_more:
        page.next_before = page.entries[0].id
    return page


@router.post(
    "/{task_id}/stop",
    summary="停止训练任务",
    responses=documented(401, 403, 404, 409, 422, 503),
)
def stop_training(task_id: TaskIdPath, service: Service) -> ActionResponse:
    """停止训练. A running training ends within one batch; a waiting one does not begin."""
    return ActionResponse(message=service.stop_training(task_id), task_id=task_id)


@router.post(
    "/{task_id}/resume",
    summary="继续训练任务",
    response_model=TaskResponse,
    response_model_exclude_unset=True,
    responses=documented(401, 403, 404, 409, 422, 429, 503),
)
def resume_training(task_id: TaskIdPath, service: Service) -> TaskResponse:
    """从最近的检查点继续已停止或失败的训练. Continues a training that was stopped or has failed, as the same task.

    It goes on at the epoch after its last checkpoint, with the same series of lines and metrics. Where that is not
    possible the answer says why.
    """
    return answer(service, service.resume_training(task_id), with_history=None)[0]


@router.post(
    "/{task_id}/reparse",
    summary="重新解析日志",
    response_model=TaskResponse,
    response_model_exclude_unset=True,
    responses=documented(400, 401, 403, 404, 409, 422, 503),
)
def reparse_training(task_id: TaskIdPath, reading: LogReading, service: Service) -> TaskResponse:
    """用新的规则重新读出指标. Reads the metrics of a task from its stored lines again, with other patterns.

    Everybody sees the old metrics until they are replaced by the new ones, all at once. Lines to come are read by
    the new patterns too.
    """
    return answer(service, service.reparse(task_id, reading), with_history=None)[0]


@router.delete(
    "/{task_id}",
    summary="删除训练任务",
    responses=documented(401, 403, 404, 409, 422, 503),
)
def delete_training(task_id: TaskIdPath, service: Service) -> ActionResponse:
    """删除已结束任务的记录和日志. Removes an ended task and its lines from the store; files below `save_path` stay."""
    service.delete_task(task_id)
    return ActionResponse(message="The task and its log were deleted; its files were kept.", task_id=task_id)
