"""Waiting out a want of descriptors or memory in the service, which says nothing of the trainer that it follows."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

from services.executors.base import Detached

Answer = TypeVar("Answer")

RETRY_S = 0.5
"""Between two attempts at what the system refuses for want of something."""
_WANTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})


def is_want(error: OSError) -> bool:
    """Whether the same question can be answered later: only the service, or the whole machine, lacks something."""
    return error.errno in _WANTS


def patiently(question: Callable[[], Answer], detached: threading.Event) -> Answer:
    """The answer, however long it takes to have what it needs.

    Raises: Detached: the service lets go before.
    """
    while True:
        try:
            return question()
        except OSError as error:
            if not is_want(error):
                raise
        if detached.wait(RETRY_S):
            raise Detached
