"""训练接口: what a run was made from, and in what two runs differ."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.deps import NO_NUL, Service, TaskIdPath
from api.errors import documented
from models.provenance import ProvenanceResponse
from services.errors import AttemptNotFound
from services.provenance import differences
from services.requests import without_secrets
from services.training_service import TrainingService

router = APIRouter(prefix="/api/v2/training/{task_id}", tags=["训练接口"])


@router.get(
    "/provenance",
    summary="获取任务的来源",
    response_model=ProvenanceResponse,
    response_model_exclude_unset=True,
    responses=documented(401, 403, 404, 422, 503),
)
def get_provenance(
    task_id: TaskIdPath,
    service: Service,
    attempt: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="第几次运行 which run; default: the last")
    ] = None,
    against: Annotated[
        str | None, Query(max_length=64, pattern=NO_NUL, description="与另一任务比较 another task to compare with")
    ] = None,
) -> dict[str, Any]:
    """代码、软件包、机器、数据与请求. Code, packages, machine, data and request of a run, without secrets.

    Recorded before the trainer begins: until then, and of tasks of older releases, there is the request alone. With
    `against` the answer also says in what the last runs of the two tasks differ.
    """
    record = record_of(service, task_id, attempt)
    if against is not None:
        both = {task_id: record, against: record_of(service, against)}
        found = differences(both) if against != task_id else {}
        record["against"] = against
        record["differences"] = [{"field": path, "values": values} for path, values in found.items()]
    return record


def record_of(service: TrainingService, task_id: str, attempt: int | None = None) -> dict[str, Any]:
    """What is known of one run of a task, or of its last.

    Raises:
        TaskNotFound: there is no such task.
        AttemptNotFound: it has had no such run (yet).
    """
    state = service.get_task(task_id)
    if attempt is not None and attempt > state.attempt:
        raise AttemptNotFound(task_id, attempt, state.attempt)
    sent, record = service.provenance.read(task_id, attempt)
    about: dict[str, Any] = {"task_id": task_id}
    if record is not None:
        about |= {"attempt": record.attempt, "recorded_at": record.recorded_at}
    return {**about, "request": sent.get("request") or without_secrets(state)[1], **(record.content if record else {})}
