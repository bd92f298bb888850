"""What routes are given."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request

from api.session import Tokens
from services.alerts import AlertService
from services.history import MetricHistory
from services.training_service import TrainingService
from trainer.roots import Folders


def get_service(request: Request) -> TrainingService:
    service = request.app.state.service
    assert isinstance(service, TrainingService)
    return service


def get_save_roots(request: Request) -> Folders:
    roots: Folders = request.app.state.save_roots
    return roots


def get_history(request: Request) -> MetricHistory:
    history = request.app.state.history
    assert isinstance(history, MetricHistory)
    return history


def get_alerts(request: Request) -> AlertService:
    alerts = request.app.state.alerts
    assert isinstance(alerts, AlertService)
    return alerts


def get_tokens(request: Request) -> Tokens:
    tokens = request.app.state.tokens
    assert isinstance(tokens, Tokens)
    return tokens


def get_metric_names(
    metrics: Annotated[
        str | None, Query(description="返回哪些指标 names of the metrics to return, separated by commas; default: all")
    ] = None,
) -> frozenset[str] | None:
    names = frozenset(name.strip() for name in (metrics or "").split(",")) - {""}
    return names or None


NO_NUL = r"^[^\x00]*$"
"""PostgreSQL refuses to look for it."""

TaskIdPath = Annotated[str, Path(max_length=64, pattern=NO_NUL, description="the id that start answered")]
Service = Annotated[TrainingService, Depends(get_service)]
SaveRoots = Annotated[Folders, Depends(get_save_roots)]
History = Annotated[MetricHistory, Depends(get_history)]
Alerts = Annotated[AlertService, Depends(get_alerts)]
AcceptedTokens = Annotated[Tokens, Depends(get_tokens)]
MetricNames = Annotated[frozenset[str] | None, Depends(get_metric_names)]
