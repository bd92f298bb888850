"""Alerts on the wire: rules, channels, firings, and the body of a webhook."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from models.fields import NoBoolean, RequestBody
from models.schemas import TaskStatus

RuleKind = Literal["status", "threshold", "not_finite", "no_improvement", "silence", "pattern"]
Operator = Literal[">", ">=", "<", "<="]
_CONDITION = re.compile(
    r"\s*(?P<metric>\S+)\s*(?P<op>>=|<=|>|<)\s*(?P<value>[-+0-9.eE]+)(?:\s+for\s+(?P<epochs>[0-9]{1,6})\s+epochs?)?\s*"
)
_NEEDS = {
    "status": ("statuses",),
    "threshold": ("metric", "op", "value"),
    "no_improvement": ("metric", "epochs"),
    "silence": ("minutes",),
    "pattern": ("pattern",),
}


class RuleRequest(RequestBody):
    """What to look for, where, and whom to tell. Which fields are needed depends on `kind`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=200)
    task_id: str | None = Field(default=None, max_length=64, description="one task; else all")
    kind: RuleKind
    enabled: bool = True
    channels: list[Annotated[int, NoBoolean]] = Field(
        default_factory=list, max_length=20, description="ids of channels to tell"
    )
    action: Literal["stop"] | None = Field(default=None, description="stop: end the task as well")
    condition: str | None = Field(
        default=None, max_length=300, description="a threshold as text: val_loss > 2 for 3 epochs"
    )
    metric: str | None = Field(default=None, min_length=1, max_length=128)
    op: Operator | None = None
    value: float | None = None
    for_epochs: int | None = Field(default=None, ge=1, le=100_000, description="epochs in a row; else any one value")
    epochs: int | None = Field(default=None, ge=1, le=100_000, description="epochs without improvement")
    goal: Literal["min", "max"] | None = Field(default=None, description="by the metric's name, if not given")
    min_delta: float = Field(default=0, ge=0, description="what counts as an improvement must be larger than this")
    minutes: float | None = Field(default=None, gt=0, le=100_000)
    pattern: str | None = Field(default=None, min_length=1, max_length=1000, description="RE2")
    statuses: list[TaskStatus] | None = Field(default=None, min_length=1)
    reasons: list[str] | None = Field(default=None, min_length=1, description="only with one of these reasons")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "threshold" and self.condition is not None:
            found = _CONDITION.fullmatch(self.condition)
            if found is None:
                raise ValueError("condition: write it as `val_loss > 2` or `val_loss > 2 for 3 epochs`")
            self.metric, self.op = found["metric"], found["op"]  # type: ignore[assignment]
            self.value = float(found["value"])
            self.for_epochs = int(found["epochs"]) if found["epochs"] else None
            self.condition = None
            if self.for_epochs == 0:
                raise ValueError("condition: for at least 1 epoch")
        missing = [name for name in _NEEDS.get(self.kind, ()) if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a rule of kind {self.kind} needs {', '.join(missing)}")
        return self


class Rule(RuleRequest):
    """A rule as it is kept."""

    id: int
    created_at: AwareDatetime


class RuleList(BaseModel):
    rules: list[Rule]


class ChannelRequest(BaseModel):
    """Where firings are sent to."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    kind: Literal["webhook", "apprise"]
    url: str = Field(min_length=1, max_length=2000, description="never answered back: it may hold a secret")
    secret: str | None = Field(default=None, min_length=16, max_length=200, description="signs webhooks")


class Channel(BaseModel):
    """A channel without its secrets: of the URL, scheme and host."""

    id: int
    name: str
    kind: Literal["webhook", "apprise"]
    target: str
    signed: bool
    created_at: AwareDatetime


class ChannelList(BaseModel):
    channels: list[Channel]


class Delivery(BaseModel):
    channel_id: int
    state: Literal["pending", "delivered", "failed"]
    tries: int
    error: str | None = None


class Firing(BaseModel):
    """A rule has fired."""

    id: int
    rule_id: int
    rule_name: str
    kind: RuleKind
    task_id: str
    message: str
    line_id: int = Field(description="the line of the task's log that made it fire")
    at: AwareDatetime
    deliveries: list[Delivery] = Field(default_factory=list)


class FiringList(BaseModel):
    alerts: list[Firing]


class TestResult(BaseModel):
    delivered: bool
    error: str | None = None


class WebhookBody(BaseModel):
    """The body of a webhook."""

    type: Literal["alert.fired", "alert.test"]
    timestamp: AwareDatetime
    data: dict[str, Any]
