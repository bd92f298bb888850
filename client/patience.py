"""How long a service that does not answer is asked again: over a restart, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from client.errors import ServiceError, ServiceUnreachable

ATTEMPTS = 8
FIRST_DELAY = 1.0
LONGEST_DELAY = 30.0
NOT_IMPLEMENTED = 501
Answer = TypeVar("Answer")


def may_pass(refused: ServiceError) -> bool:
    """Whether the same request may be answered later.

    A service, or the proxy before it, gives 429 and 5xx while it starts, stops or is busy; proxies have numbers of
    their own for that, above 511. Only 501 says that it will never be otherwise.
    """
    return refused.status_code == 429 or (refused.status_code >= 500 and refused.status_code != NOT_IMPLEMENTED)


def delay(fruitless: int, first: float = FIRST_DELAY) -> float:
    """Seconds to wait after so many attempts that brought nothing: never less than `first`, which others may set."""
    doubled: float = first * 2 ** max(fruitless - 1, 0)
    return max(first, min(doubled, LONGEST_DELAY))


def until_answered(ask: Callable[[], Answer], *, sleep: Callable[[float], None] = time.sleep) -> Answer:
    """The answer to a question that may be asked twice, as patiently as a stream is taken up again.

    Raises: ServiceError, ServiceUnreachable: the last attempt's, or a refusal that will not pass.
    """
    for fruitless in range(1, ATTEMPTS):
        try:
            return ask()
        except ServiceUnreachable:
            pass
        except ServiceError as refused:
            if not may_pass(refused):
                raise
        sleep(delay(fruitless))
    return ask()
