"""训练接口: what a task was asked for, and what it has left behind."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import APIRouter, Path, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from api.deps import NO_NUL, SaveRoots, Service, TaskIdPath
from api.errors import documented, error_response
from models.results import ArtifactList, EvaluationResponse, RequestResponse
from services.artifacts import LOG, list_artifacts, log_text, open_artifact, read_evaluation
from services.requests import without_secrets

router = APIRouter(prefix="/api/v2/training/{task_id}", tags=["训练接口"])

ArtifactName = Annotated[str, Path(max_length=255, pattern=NO_NUL, description="one of the list")]


class OpenFileResponse(FileResponse):
    """A file that is open already: what is sent is what was looked at, whatever takes its name meanwhile."""

    def __init__(self, descriptor: int, name: str) -> None:
        found = os.fstat(descriptor)
        super().__init__(
            f"/proc/self/fd/{descriptor}", media_type="application/octet-stream", filename=name, stat_result=found
        )
        self._descriptor = descriptor
        self._size = found.st_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_refused = False

        async def in_our_words(message: Message) -> None:
            """A range that cannot be had is refused as everything is."""
            nonlocal is_refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                is_refused = True
                await self._refusal(message["status"])(scope, receive, send)
            elif not is_refused:
                await send(message)

        try:
            await super().__call__(scope, receive, in_our_words)
        finally:
            os.close(self._descriptor)

    def _refusal(self, status: int) -> JSONResponse:
        """How long the file is goes with it, so that whoever asked knows what to ask for (RFC 9110, 15.5.17)."""
        if status == 416:
            detail = "The file has no such part: ask for bytes that it has, or for all of it."
            headers = {"Content-Range": f"bytes */{self._size}"}
            return error_response(status, detail, "range_not_satisfiable", headers=headers)
        detail = "The Range header cannot be understood: write 'Range: bytes=FIRST-LAST', or leave it out."
        return error_response(status, detail, "invalid_range")


@router.get("/request", summary="获取训练请求", responses=documented(401, 403, 404, 422, 503))
def get_request(task_id: TaskIdPath, service: Service) -> RequestResponse:
    """任务当初的请求. What was asked for, paths absolute: start from it again, or compare. Secrets are left out."""
    state = service.get_task(task_id)
    kind, request = without_secrets(state)
    return RequestResponse(task_id=task_id, kind=kind, request=request)


@router.get("/evaluation", summary="获取最佳轮次的评估", responses=documented(401, 403, 404, 422, 503))
def get_evaluation(task_id: TaskIdPath, service: Service, roots: SaveRoots) -> EvaluationResponse:
    """混淆矩阵与每个类别的指标. Confusion matrix and scores of each class, of the best epoch so far."""
    return read_evaluation(service.get_task(task_id), roots)


@router.get(
    "/artifacts",
    summary="列出任务的文件",
    response_model_exclude_unset=True,
    responses=documented(401, 403, 404, 422, 503),
)
def get_artifacts(task_id: TaskIdPath, service: Service, roots: SaveRoots) -> ArtifactList:
    """检查点、评估和日志. Checkpoints, evaluation and log of a task."""
    return ArtifactList(task_id=task_id, artifacts=list_artifacts(service.get_task(task_id), roots))


@router.get(
    "/artifacts/{name}",
    summary="下载任务的文件",
    response_class=FileResponse,
    responses={
        200: {"description": "The file", "content": {"application/octet-stream": {}, "text/plain": {}}},
        206: {"description": "The part of it that `Range` asks for"},
        **documented(400, 401, 403, 404, 416, 422, 503),
    },
)
async def get_artifact(task_id: TaskIdPath, name: ArtifactName, service: Service, roots: SaveRoots) -> Response:
    """下载一个文件. One of the files; `log.txt` is the stored log as text, which is always sent whole."""
    state = await run_in_threadpool(service.get_task, task_id)
    if name == LOG:
        headers = {"Content-Disposition": f'attachment; filename="{LOG}"', "Accept-Ranges": "none"}
        lines = log_text(service.store, task_id)
        return StreamingResponse(lines, media_type="text/plain; charset=utf-8", headers=headers)
    return OpenFileResponse(await run_in_threadpool(open_artifact, state, name, roots), name)
