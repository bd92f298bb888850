"""What clients may ask of alerts: rules, channels, firings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from prometheus_client import Counter
from pydantic import ValidationError
from sqlalchemy import Connection, delete, insert

from models.alerts import Channel, ChannelRequest, Firing, Rule, RuleRequest, TestResult, WebhookBody
from models.schemas import FieldProblem
from services.alerts.conditions import compile_pattern
from services.alerts.evaluator import Evaluator
from services.alerts.outbox import Outbox
from services.alerts.senders import SendError, check_url, send
from services.errors import AlertNotFound, InvalidRequest
from services.history.goals import goal_of
from services.storage.alerts import AlertStore, begin, change_rule, write_rule
from services.storage.database import Database
from services.storage.events import EventStore
from services.storage.tables import alert_channels, alert_rules
from services.training_service import TrainingService

OUT_OF_MEMORY = RuleRequest(name="CUDA out of memory", kind="pattern", pattern=r"(?i)CUDA.*out of memory")
_NOT_OF_THE_CONDITION = {"name", "enabled", "channels", "action"}


class AlertService:
    """Owns the threads that evaluate and deliver. Closed before the training service, whose store it uses."""

    def __init__(
        self, service: TrainingService, database: Database, *, allow_private: bool, first_delay_s: float = 5
    ) -> None:
        self._service, self._allow_private = service, allow_private
        self._store = AlertStore(database)
        self._evaluator = Evaluator(service, self._store, EventStore(database), self._prepare)
        self._outbox = Outbox(
            self._store,
            service.apply,
            allow_private=allow_private,
            first_delay_s=first_delay_s,
            is_owner=lambda: service.is_owner,
        )

    @property
    def delivery_attempts(self) -> Counter:
        """By their outcome."""
        return self._outbox.attempts

    def start(self) -> None:
        """Begin to evaluate and deliver; in a replica, once it owns the store."""
        if self._service.is_owner:
            self._prepare()
        self._evaluator.start()
        self._outbox.start()

    def close(self) -> None:
        self._evaluator.close()
        self._outbox.close()

    def _prepare(self) -> None:
        """Writes on the first run alone: a service must start whose disk is full."""
        if not self._store.has_begun():
            self._service.write(lambda connection: begin(connection, [OUT_OF_MEMORY.model_dump(mode="json")]))

    def rules(self) -> list[Rule]:
        return [_rule(row) for row in self._store.rules()]

    def rule(self, rule_id: int) -> Rule:
        """Raises: AlertNotFound."""
        found: Rule = _find(self.rules(), rule_id, "rule")
        return found

    def add_rule(self, request: RuleRequest) -> Rule:
        """Raises: InvalidRequest: its pattern or a channel cannot be used. TaskNotFound."""
        self._check(request)
        return self.rule(
            self._service.write(lambda connection: write_rule(connection, request.model_dump(mode="json")))
        )

    def change_rule(self, rule_id: int, changes: Mapping[str, Any]) -> Rule:
        """As `add_rule`. A rule that looks for something else, or is switched on, begins anew with the next line."""
        rule = self.rule(rule_id)
        stored = rule.model_dump(mode="json", exclude={"id", "created_at"})
        try:
            request = RuleRequest.model_validate({**stored, **changes})
        except ValidationError as error:
            problems = [
                FieldProblem(field=".".join(map(str, each["loc"])) or "kind", code="invalid_rule", message=each["msg"])
                for each in error.errors()
            ]
            raise InvalidRequest.from_problems(problems) from None
        self._check(request)
        definition = request.model_dump(mode="json")
        is_same = all(definition[name] == stored[name] for name in definition.keys() - _NOT_OF_THE_CONDITION)
        anew = not is_same or (request.enabled and not rule.enabled)
        self._service.write(lambda connection: change_rule(connection, rule_id, definition, anew=anew))
        return self.rule(rule_id)

    def delete_rule(self, rule_id: int) -> None:
        """Its firings go too."""
        self.rule(rule_id)
        self._service.write(
            lambda connection: connection.execute(delete(alert_rules).where(alert_rules.c.id == rule_id))
        )

    def channels(self) -> list[Channel]:
        return [_channel(row) for row in self._store.channels()]

    def channel(self, channel_id: int) -> Channel:
        """Raises: AlertNotFound."""
        found: Channel = _find(self.channels(), channel_id, "channel")
        return found

    def add_channel(self, request: ChannelRequest) -> Channel:
        """Raises: InvalidRequest: the URL cannot be used."""
        if why := check_url(request.kind, request.url, allow_private=self._allow_private):
            raise InvalidRequest.from_problems([FieldProblem(field="url", code="invalid_target", message=why)])
        row = {**request.model_dump(), "created_at": datetime.now(UTC)}

        def write(connection: Connection) -> int:
            key = connection.execute(insert(alert_channels), row).inserted_primary_key
            assert key is not None
            return int(key[0])

        return self.channel(self._service.write(write))

    def delete_channel(self, channel_id: int) -> None:
        """What was to be delivered there goes too."""
        self.channel(channel_id)
        self._service.write(
            lambda connection: connection.execute(delete(alert_channels).where(alert_channels.c.id == channel_id))
        )

    def test_channel(self, channel_id: int) -> TestResult:
        """Send one message now, without the outbox."""
        row = _find(self._store.channels(), channel_id, "channel", of=lambda each: each["id"])
        data = {"rule_name": "Test", "task_id": "test", "message": "This is a test of the channel"}
        body = WebhookBody(type="alert.test", timestamp=datetime.now(UTC), data=data)
        try:
            missed = send(row, f"msg_{uuid4().hex}", body, allow_private=self._allow_private)
        except SendError as error:
            return TestResult(delivered=False, error=str(error))
        return TestResult(delivered=True, error=missed)

    def firings(
        self, task_id: str | None = None, after: int | None = None, before: int | None = None, limit: int = 50
    ) -> list[Firing]:
        """Newest first; those with an id between these two."""
        return [Firing.model_validate(row) for row in self._store.firings(task_id, after, before, limit)]

    def count(self, task_ids: list[str]) -> dict[str, int]:
        """Firings of each of these tasks that has any."""
        return self._store.count(task_ids)

    def _check(self, request: RuleRequest) -> None:
        if request.task_id is not None:
            self._service.get_task(request.task_id)
        if request.pattern is not None:
            try:
                compile_pattern(request.pattern)
            except ValueError as error:
                problem = FieldProblem(field="pattern", code="invalid_pattern", message=str(error))
                raise InvalidRequest.from_problems([problem]) from None
        if request.kind == "no_improvement" and request.goal is None and goal_of(request.metric or "") is None:
            why = f"whether {request.metric} is better high or low cannot be told by its name: give `min` or `max`"
            raise InvalidRequest.from_problems([FieldProblem(field="goal", code="invalid_rule", message=why)])
        missing = set(request.channels) - {channel.id for channel in self.channels()}
        if missing:
            why = f"there is no channel {min(missing)}; GET /api/v2/alerts/channels lists them"
            raise InvalidRequest.from_problems([FieldProblem(field="channels", code="invalid_rule", message=why)])


def _rule(row: Mapping[str, Any]) -> Rule:
    return Rule(**row["definition"], id=row["id"], created_at=row["created_at"])


def _channel(row: Mapping[str, Any]) -> Channel:
    parts = urlsplit(row["url"])
    target = f"{parts.scheme}://{parts.hostname}" if row["kind"] == "webhook" else f"{parts.scheme}://"
    return Channel(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        target=target,
        signed=bool(row["secret"]),
        created_at=row["created_at"],
    )


def _find(found: Any, key: int, what: str, of: Callable[[Any], int] = lambda each: int(each.id)) -> Any:
    for each in found:
        if of(each) == key:
            return each
    raise AlertNotFound(f"There is no {what} {key}. GET /api/v2/alerts/{what}s lists them.")
