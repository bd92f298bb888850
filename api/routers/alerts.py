"""告警接口: rules, channels, and what has fired."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query

from api.deps import NO_NUL, Alerts
from api.errors import documented
from api.strict_json import StrictJsonRoute
from models.alerts import (
    Channel,
    ChannelList,
    ChannelRequest,
    FiringList,
    Rule,
    RuleList,
    RuleRequest,
    TestResult,
)

router = APIRouter(prefix="/api/v2/alerts", tags=["告警接口"], route_class=StrictJsonRoute)

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
_REFUSALS = documented(401, 403, 404, 422, 503)
_OF_A_BODY = documented(400, 401, 403, 404, 422, 503)


@router.get("", summary="获取告警", response_model_exclude_none=True, responses=_REFUSALS)
def get_alerts(
    alerts: Alerts,
    task_id: Annotated[str | None, Query(max_length=64, pattern=NO_NUL)] = None,
    after: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="only those with a higher id")] = None,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="only those with a lower id")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> FiringList:
    """触发过的告警. What has fired, newest first, and whether it was delivered; `before` the last one leads on."""
    return FiringList(alerts=alerts.firings(task_id, after, before, limit))


@router.post("/rules", summary="添加告警规则", response_model_exclude_none=True, responses=_OF_A_BODY)
def add_rule(request: RuleRequest, alerts: Alerts) -> Rule:
    """新规则从现在开始. It begins with the next line; what is in the log already does not make it fire."""
    return alerts.add_rule(request)


@router.get("/rules", summary="列出告警规则", response_model_exclude_none=True, responses=_REFUSALS)
def get_rules(alerts: Alerts) -> RuleList:
    """所有规则. All rules, oldest first."""
    return RuleList(rules=alerts.rules())


@router.get("/rules/{rule_id}", summary="获取告警规则", response_model_exclude_none=True, responses=_REFUSALS)
def get_rule(rule_id: Id, alerts: Alerts) -> Rule:
    """一条规则. One rule."""
    return alerts.rule(rule_id)


@router.patch("/rules/{rule_id}", summary="修改告警规则", response_model_exclude_none=True, responses=_OF_A_BODY)
def change_rule(rule_id: Id, changes: Annotated[dict[str, Any], Body()], alerts: Alerts) -> Rule:
    """只发送要修改的字段. A rule begins anew if it looks for something else now, or is switched on."""
    return alerts.change_rule(rule_id, changes)


@router.delete("/rules/{rule_id}", summary="删除告警规则", status_code=204, responses=_REFUSALS)
def delete_rule(rule_id: Id, alerts: Alerts) -> None:
    """规则触发过的告警一并删除. Its firings go too."""
    alerts.delete_rule(rule_id)


@router.post("/channels", summary="添加告警渠道", responses=_OF_A_BODY)
def add_channel(request: ChannelRequest, alerts: Alerts) -> Channel:
    """密钥不会再返回. The URL and the secret are never answered back."""
    return alerts.add_channel(request)


@router.get("/channels", summary="列出告警渠道", responses=_REFUSALS)
def get_channels(alerts: Alerts) -> ChannelList:
    """所有渠道. All channels, oldest first."""
    return ChannelList(channels=alerts.channels())


@router.get("/channels/{channel_id}", summary="获取告警渠道", responses=_REFUSALS)
def get_channel(channel_id: Id, alerts: Alerts) -> Channel:
    """一个渠道. One channel."""
    return alerts.channel(channel_id)


@router.delete("/channels/{channel_id}", summary="删除告警渠道", status_code=204, responses=_REFUSALS)
def delete_channel(channel_id: Id, alerts: Alerts) -> None:
    """尚未送达的告警不再发送. What waits to be delivered there goes too."""
    alerts.delete_channel(channel_id)


@router.post(
    "/channels/{channel_id}/test", summary="测试告警渠道", response_model_exclude_none=True, responses=_REFUSALS
)
def test_channel(channel_id: Id, alerts: Alerts) -> TestResult:
    """立即发送一条测试消息. Sends one message now, and says whether it was taken."""
    return alerts.test_channel(channel_id)
