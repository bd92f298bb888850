"""系统接口: is the service well, and what can it train?"""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, Request

from api.deps import Service
from api.errors import documented
from models.schemas import HealthResponse, NetworkList
from trainer.catalogue import list_networks

router = APIRouter(tags=["系统接口"])


@router.get("/api/v1/health", summary="健康检查", responses=documented(403))
async def get_health(request: Request, service: Service) -> HealthResponse:
    """服务是否可用. Always 200 while the service answers; `status` is `degraded` while log lines wait for the disk."""
    degraded = service.storage_degraded
    return HealthResponse(
        status="degraded" if degraded else "ok",
        version=cast(str, request.app.version),
        running=service.running,
        queued=service.queued,
        role="owner" if service.is_owner else "replica",
        storage=degraded or "ok",
    )


@router.get("/api/v2/models", summary="列出可训练的模型", responses=documented(401, 403))
def get_models() -> NetworkList:
    """可训练的分类网络. Every network that `model` may name, with the image sizes that it takes."""
    return NetworkList(models=list_networks())
