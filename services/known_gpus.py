"""Which GPUs there are, for those who may not wait for the driver: whoever holds the service's lock."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from services.devices import Gpu

logger = logging.getLogger(__name__)

FRESH_S = 5.0
"""How old an answer of the driver may be when a task gets the GPU with the least memory in use."""

RETRY_S = 5.0
"""How long a driver that did not answer is left alone."""


class KnownGpus:
    """Keeps the driver's last answer. A call asks the driver itself, and may take long: call it with no lock held.

    Args:
        ask: what the driver says; `None` where it does not answer just now.

    Attributes:
        when_answered: called without a lock after `recent` had no answer: when there is one, or it is time to try
            again. It may then ask `recent` again if anybody still needs to know.
    """

    def __init__(self, ask: Callable[[], Sequence[Gpu] | None]) -> None:
        self.when_answered: Callable[[], None] = lambda: None
        self._ask = ask
        self._lock = threading.Lock()
        self._latest: tuple[Gpu, ...] = ()
        self._answered_at = float("-inf")
        self._is_asking = False
        self._is_told = False

    def __call__(self) -> Sequence[Gpu]:
        """The GPUs as they are now, or as they were last where the driver does not answer; none if it never has."""
        found = self._ask()
        with self._lock:
            if found is None:  # they are hardly gone; but how busy they are is not known
                return tuple(replace(gpu, utilization=None) for gpu in self._latest)
            self._latest, self._answered_at, self._is_told = tuple(found), time.monotonic(), False
            return self._latest

    def recent(self) -> Sequence[Gpu] | None:
        """An answer of the last few seconds, at once. `None` where there is none: it is asked for meanwhile."""
        with self._lock:
            if self._is_fresh():
                return self._latest
            if not self._is_asking:
                with suppress(RuntimeError):  # the system allows no more threads; whoever asks next tries again
                    threading.Thread(target=self._ask_aside, name="gpus", daemon=True).start()
                    self._is_asking = True
        return None

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._answered_at < FRESH_S

    def _ask_aside(self) -> None:
        try:
            self()
        except Exception:
            logger.exception("The driver of the GPUs could not be asked")
        with self._lock:
            is_answered, is_told = self._is_fresh(), self._is_told
            self._is_told = not is_answered
        if not (is_answered or is_told):  # once: it may last for days
            logger.warning("The driver of the GPUs does not answer. Tasks that need it wait.")
        if not is_answered:
            threading.Event().wait(RETRY_S)
        with self._lock:
            self._is_asking = False
        self.when_answered()
