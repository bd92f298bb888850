"""Alerts of a service that is started again."""

from __future__ import annotations

import pytest

from services.alerts.service import AlertService
from services.training_service import TrainingService


def test_a_service_whose_store_takes_nothing_starts_with_the_rules_it_had(
    service: TrainingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = AlertService(service, service.database, allow_private=False)
    first.start()
    rules = first.rules()
    first.close()

    def refuse(_operation: object) -> None:
        raise AssertionError("it was written to")

    monkeypatch.setattr(service, "apply", refuse)
    second = AlertService(service, service.database, allow_private=False)
    second.start()
    assert rules
    assert second.rules() == rules
    second.close()
