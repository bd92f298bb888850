"""Moments of this machine, on the clock of a service that may stand in another zone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from client.commands.exits import Unusable
from client.commands.moments import moment_of, on_service_clock

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
WINTER = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))
SUMMER = datetime(2026, 6, 1, tzinfo=timezone(timedelta(hours=2)))


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as there:
        there.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def test_the_offset_of_the_last_change_counts_not_that_of_the_first() -> None:
    found = on_service_clock(NOON, [WINTER, SUMMER], is_local=False)
    assert found == datetime.fromisoformat("2026-07-01T14:00")


def test_clocks_that_were_put_forward_since_the_last_change_are_known_on_the_same_machine(in_berlin: None) -> None:
    assert on_service_clock(NOON, [WINTER], is_local=True) == datetime.fromisoformat("2026-07-01T14:00")
    assert on_service_clock(NOON, [WINTER], is_local=False) == datetime.fromisoformat("2026-07-01T13:00")


def test_a_service_on_this_machine_that_is_told_another_zone_keeps_it(in_berlin: None) -> None:
    change = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=8)))
    assert on_service_clock(NOON, [change], is_local=True) == datetime.fromisoformat("2026-07-01T20:00")


def test_a_time_with_an_offset_is_a_moment_and_one_without_is_left_as_the_log_has_it() -> None:
    assert moment_of("2026-07-01T14:00+02:00") == NOON
    assert moment_of("2026-07-01T14:00") == datetime.fromisoformat("2026-07-01T14:00")


@pytest.mark.parametrize("text", ["9000000d", "999999999d", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"])
def test_what_no_calendar_has_is_refused_in_words(text: str) -> None:
    with pytest.raises(Unusable, match="the calendar"):
        moment_of(text)


@pytest.mark.parametrize("text", ["", "yesterday", "10", "10w", "-1h"])
def test_what_is_no_time_is_refused_in_words(text: str) -> None:
    with pytest.raises(Unusable, match="is no time"):
        moment_of(text)
