"""系统接口: is the service well, and what can it train?"""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, Request

from api.deps import Service
from api.errors import documented
from models.schemas import HealthResponse, NetworkList, ProbeResponse
from services.errors import StorageUnavailable
from services.training_service import TrainingService
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


@router.get("/api/v1/health/live", summary="存活检查", responses=documented(403))
async def get_liveness() -> ProbeResponse:
    """进程是否还在响应. 200 as long as the process answers; who gets no answer may restart it.

    A store that refuses writes is no reason to: a restart would not mend it, and would cut trainings short.
    """
    return ProbeResponse()


@router.get("/api/v1/health/ready", summary="就绪检查", responses=documented(403, 503))
async def get_readiness(request: Request) -> ProbeResponse:
    """是否可以接收请求. 200 while the service does what it is there for; 503 with the reason while it does not.

    A read replica is ready to be read. Who spreads what changes something asks `/api/v1/health` for the `role`.
    """
    service: TrainingService | None = getattr(request.app.state, "service", None)
    if service is None:
        raise StorageUnavailable("The service is starting.", code="starting")
    if service.is_closing:
        raise StorageUnavailable("The service is shutting down.", code="shutting_down")
    if service.storage_degraded is not None:
        raise StorageUnavailable(f"The store refuses writes ({service.storage_degraded}).")
    return ProbeResponse()


@router.get("/api/v2/models", summary="列出可训练的模型", responses=documented(401, 403))
def get_models() -> NetworkList:
    """可训练的分类网络. Every network that `model` may name, with the image sizes that it takes."""
    return NetworkList(models=list_networks())
