"""Getting in without a token, and finding one out."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from api.session import COOKIE, Tokens
from tests.attacks.stock_app import stock_app
from tests.running_server import RunningServer

TOKEN = "a-token-of-the-service"
WAYS_IN: dict[str, dict[str, str]] = {
    "nothing": {},
    "another scheme": {"Authorization": f"Basic {TOKEN}"},
    "a token that begins alike": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "an empty token": {"Authorization": "Bearer"},
    "the token as a cookie": {"Cookie": f"{COOKIE}={TOKEN}"},
    "a cookie that was made up": {"Cookie": f"{COOKIE}=99999999999.{'0' * 64}"},
    "an address of this machine": {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"},
}


@pytest.mark.parametrize("headers", WAYS_IN.values(), ids=WAYS_IN)
def test_without_a_token_nothing_is_answered(serve: Callable[..., RunningServer], headers: dict[str, str]) -> None:
    def gets_in(url: str) -> bool:
        return httpx.get(f"{url}/api/v2/training", headers=headers).status_code == 200

    stock = RunningServer(stock_app())  # which asks for nothing, unless one thinks of it on every route
    try:
        assert not gets_in(serve(api_tokens=(SecretStr(TOKEN),)).url)
        assert gets_in(stock.url)
    finally:
        stock.stop()


LONG = "x" * 5_000_000
"""So long that comparing it takes longer than anything else that happens."""


def tells_apart(check: Callable[[str], object]) -> bool:
    """Whether the time that a wrong token takes says how much of it is right: byte by byte, that finds it out."""

    def fastest(token: str) -> float:
        times = []
        for _ in range(15):
            begin = time.perf_counter()
            assert not check(token)
            times.append(time.perf_counter() - begin)
        return min(times)

    right_to_the_last, wrong_from_the_first = f"{LONG[:-1]}y", f"y{LONG[1:]}"
    return fastest(right_to_the_last) > 1.5 * fastest(wrong_from_the_first)


def test_the_time_of_an_answer_says_nothing_about_the_token() -> None:
    tokens = Tokens([LONG])

    def compare(token: str) -> bool:
        return tokens.has_token(Headers({"authorization": f"Bearer {token}"}))

    assert compare(LONG)
    assert not tells_apart(compare)
    assert tells_apart(lambda given: given == LONG)  # as one writes it in an afternoon
