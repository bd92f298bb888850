"""When rules fire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


NUMBERS = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0]))
RULES: list[dict[str, Any]] = [
    {"kind": "threshold", "condition": "val_loss > 2"},
    {"kind": "threshold", "condition": "val_loss >= 2 for 2 epochs"},
    {"kind": "no_improvement", "metric": "val_loss", "epochs": 2},
    {"kind": "not_finite"},
    {"kind": "pattern", "pattern": "memory"},
]


@st.composite
def logs(draw: st.DrawFn) -> list[LogEntry]:
    """Lines of a few attempts, each of which begins at an epoch that was trained before, or at the next."""
    lines: list[LogEntry] = []
    epoch = 0
    for attempt in range(1, draw(st.integers(1, 3)) + 1):
        epoch = draw(st.integers(0, epoch))
        for _ in range(draw(st.integers(0, 5))):
            epoch += 1
            for number in draw(st.lists(NUMBERS, max_size=3)):
                message = draw(st.sampled_from(["fine", "out of memory"]))
                lines.append(LogEntry("t", "INFO", message, {"epoch": epoch, "val_loss": number}, attempt=attempt))
    return lines


@given(numbers=st.lists(NUMBERS))
def test_a_threshold_fires_where_it_begins_to_hold(numbers: list[float | None]) -> None:
    finite = [(index, number) for index, number in enumerate(numbers) if number is not None]
    before = [(-1, 0.0), *finite]
    begins = [index for (_, was), (index, now) in zip(before, finite, strict=False) if now > 2 >= was]
    assert fired(RULES[0], values("val_loss", *numbers)) == begins


@pytest.mark.parametrize("fields", RULES, ids=lambda fields: str(fields["kind"]))
@given(lines=logs())
def test_a_restart_after_any_line_changes_nothing(fields: dict[str, Any], lines: list[LogEntry]) -> None:
    rule, stored = RuleRequest(name="r", **fields), "{}"
    found = []
    for index, line in enumerate(lines):
        state = json.loads(stored)
        if advance(rule, state, line) is not None:
            found.append(index)
        stored = json.dumps(state)
    assert found == fired(fields, lines)


@pytest.mark.parametrize("fields", RULES[1:3], ids=lambda fields: str(fields["kind"]))
@given(lines=logs(), again=st.integers(1, 5))
def test_epochs_that_are_trained_again_count_once(fields: dict[str, Any], lines: list[LogEntry], again: int) -> None:
    """What is said of an epoch that has ended changes nothing, however often it is said."""
    epochs = [epoch for line in lines if (epoch := (line.metrics or {}).get("epoch")) is not None]
    last = LogEntry("t", "INFO", "x", {"epoch": 1 + max(epochs, default=0)})
    rule, state = RuleRequest(name="r", **fields), State()
    for line in [*lines, last]:
        advance(rule, state, line)
    repeated = [line for line in lines for _ in range(again)]
    assert [line for line in [*repeated, last] if advance(rule, state, line) is not None] == []
