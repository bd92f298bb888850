"""A pattern that takes the age of the universe, for an engine that goes back and tries again."""

from __future__ import annotations

from contextlib import suppress

import httpx

from tests.attacks.conftest import Target

TRIAL = {"text": "a" * 60 + "!", "metric_definitions": [{"name": "x", "regex": "(a+)+$"}]}
PATIENCE_S = 3.0


def freezes(target: Target) -> bool:
    """Whether the service answers nobody any more while it looks for the pattern."""

    with suppress(httpx.TimeoutException):
        httpx.post(f"{target.url}/api/v2/parsing/try", json=TRIAL, timeout=PATIENCE_S)
    try:
        return httpx.get(f"{target.url}/api/v1/health", timeout=PATIENCE_S).status_code != 200
    except httpx.TimeoutException:
        return True


def test_a_pattern_freezes_nothing(ours: Target, stock: Target) -> None:
    assert not freezes(ours)
    assert ours.post("parsing/try", json=TRIAL).status_code == 200
    assert freezes(stock)
