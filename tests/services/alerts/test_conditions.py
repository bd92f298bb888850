"""When rules fire."""

from __future__ import annotations

from typing import Any

from models.alerts import RuleRequest
from models.schemas import TaskStatus
from services.alerts.conditions import State, advance
from services.log_entry import LogEntry, StatusChange


def fired(fields: dict[str, Any], lines: list[LogEntry]) -> list[int]:
    """Which lines make a rule fire."""
    rule, state = RuleRequest(name="r", **fields), State()
    return [index for index, line in enumerate(lines) if advance(rule, state, line) is not None]


def values(name: str, *numbers: float | None, first: int = 1, attempt: int = 1) -> list[LogEntry]:
    return [
        LogEntry("t", "INFO", "x", {"epoch": first + index, name: number}, attempt=attempt)
        for index, number in enumerate(numbers)
    ]


def test_a_threshold_fires_again_only_after_it_was_not_reached() -> None:
    rule = {"kind": "threshold", "condition": "loss > 2"}
    assert fired(rule, values("loss", 1, 3, 4, None, 5, 1, 3)) == [1, 6]


def test_a_threshold_for_epochs_counts_what_is_trained_again_once() -> None:
    rule = {"kind": "threshold", "condition": "val_loss > 2 for 3 epochs"}
    replayed = [*values("val_loss", 3, 3, 3), *values("val_loss", 3, 3, 3, 3, first=2, attempt=2)]
    assert fired(rule, replayed) == [5]
    assert fired(rule, values("val_loss", 3, 3, 1, 3, 3, 3, 3)) == [6]


def test_no_improvement_is_measured_by_the_goal_of_the_metric() -> None:
    rule = {"kind": "no_improvement", "metric": "val_acc", "epochs": 2, "goal": "max"}
    assert fired(rule, values("val_acc", 50, 60, 55, 55, 55, 70, 1, 1, 1)) == [4, 8]


def test_not_finite_fires_once_until_the_metric_is_finite_again() -> None:
    assert fired({"kind": "not_finite"}, values("loss", 1, None, None, 1, None)) == [1, 4]
    assert fired({"kind": "not_finite", "metric": "other"}, values("loss", None)) == []


def test_a_pattern_fires_once_in_each_attempt() -> None:
    lines = [LogEntry("t", "ERROR", "CUDA out of memory", attempt=attempt) for attempt in (1, 1, 2, 2)]
    assert fired({"kind": "pattern", "pattern": "out of memory"}, lines) == [0, 2]


def test_a_status_may_be_asked_for_with_reasons() -> None:
    lines = [LogEntry("t", "INFO", "x", change=StatusChange(TaskStatus.FAILED, reason)) for reason in ("a", "b")]
    assert fired({"kind": "status", "statuses": ["failed"]}, lines) == [0, 1]
    assert fired({"kind": "status", "statuses": ["failed"], "reasons": ["b"]}, lines) == [1]
