"""系统接口: what runs and waits on which device, and how much may."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import Service
from api.errors import documented
from api.strict_json import StrictJsonRoute
from models.schemas import LimitsChange, ResourcesResponse

router = APIRouter(prefix="/api/v2/resources", tags=["系统接口"], route_class=StrictJsonRoute)


@router.get("", summary="查看设备与队列", response_model_exclude_unset=True, responses=documented(401, 403, 503))
def get_resources(service: Service) -> ResourcesResponse:
    """每个设备上正在运行和等待的任务. Every device with its limit, what runs there, and what waits for it."""
    return service.resources()


@router.post(
    "",
    summary="设置设备的并发上限",
    response_model_exclude_unset=True,
    responses=documented(400, 401, 403, 422, 503),
)
def set_limits(change: LimitsChange, service: Service) -> ResourcesResponse:
    """立即生效, 重启后仍然有效. Takes effect at once and outlasts a restart; stops nothing that runs.

    0 starts nothing more on a device; null returns it to the setting MAX_TRAINING_CONCURRENT_CPU or _GPU.
    """
    return service.set_limits(change.limits)
