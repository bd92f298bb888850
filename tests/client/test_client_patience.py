"""A question is asked again while its service restarts, and not for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from client.errors import ServiceError, ServiceUnreachable
from client.patience import ATTEMPTS, LONGEST_DELAY, until_answered

GONE = ServiceUnreachable("does not answer")


def question(*answers: str | Exception) -> Callable[[], str]:
    left = list(answers)

    def ask() -> str:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


def test_an_answer_ends_the_waiting() -> None:
    waits: list[float] = []
    busy = ServiceError(502, "unexpected_answer", "<html>")
    assert until_answered(question(GONE, busy, GONE, "here"), sleep=waits.append) == "here"
    assert waits == [1, 2, 4]


def test_the_last_error_is_told_where_nobody_answers() -> None:
    waits: list[float] = []
    with pytest.raises(ServiceUnreachable, match="the last"):
        until_answered(question(*[GONE] * (ATTEMPTS - 1), ServiceUnreachable("the last")), sleep=waits.append)
    assert len(waits) == ATTEMPTS - 1
    assert max(waits) == LONGEST_DELAY


@pytest.mark.parametrize("status", [401, 404, 501])
def test_a_refusal_that_will_not_pass_is_told_at_once(status: int) -> None:
    waits: list[float] = []
    with pytest.raises(ServiceError, match="no"):
        until_answered(question(ServiceError(status, "no", "no"), "never asked"), sleep=waits.append)
    assert waits == []
