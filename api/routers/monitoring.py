"""系统接口: what Prometheus scrapes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from api.errors import documented

router = APIRouter(tags=["系统接口"])


@router.get(
    "/metrics",
    summary="Prometheus 监控指标",
    response_class=Response,
    responses={
        200: {"description": "Metrics in the text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **documented(401, 403, 422, 503),
    },
)
def get_metrics(
    request: Request, accept: Annotated[str | None, Header(description="text or OpenMetrics")] = None
) -> Response:
    """服务自身的监控指标. How the service itself is doing, as Prometheus reads it; `doc/OPERATIONS.md` names each.

    These are not the metrics of a training: those are at `/api/v2/training/{task_id}/metrics`.
    """
    registry: CollectorRegistry = request.app.state.registry
    encode, content_type = choose_encoder(accept or "")
    return Response(encode(registry), media_type=content_type)
