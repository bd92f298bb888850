"""Following a stream over a network that fails, without losing or repeating anything.

The service publishes only what is stored, and gives it an id that is the same ever after, so the last id
seen is all that a follower must remember: a new connection with it in `Last-Event-ID` goes on behind it,
also after a restart of the service. Protocol: "Server-sent events" in the WHATWG HTML standard.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
from httpx_sse import ServerSentEvent, SSEError, connect_sse

from client.errors import ServiceError, ServiceUnreachable, refusal, unexpected, unreachable
from client.patience import ATTEMPTS, FIRST_DELAY, delay, may_pass
from models.schemas import StoredLogEntry

KEEP_ALIVE = 15.0
"""Seconds: the service sends a comment at least this often, so longer silence means a dead connection."""
SILENCE = 3 * KEEP_ALIVE
Item = TypeVar("Item")


class Follower(ABC, Generic[Item]):
    """One reader's place in one stream.

    Iterating yields everything behind `last_id`, each once. A lost connection is taken up again after the
    service's `retry:` time, which doubles, up to 30 s, for every attempt that brought nothing.

    Raises `ServiceError` where the service refuses, `ServiceUnreachable` after `attempts` attempts in a
    row that brought nothing. A connection that was cut after it had been open for a while does not count
    as one of those: a task may wait in the queue for days, behind a proxy that ends every long answer.
    """

    def __init__(
        self,
        http: httpx.Client,
        path: str,
        last_id: str,
        *,
        query: Mapping[str, str] | None = None,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._last_id = last_id
        self._http = http
        self._path = path
        self._query = query or {}
        self._attempts = attempts
        self._sleep = sleep
        self._clock = clock
        self._retry = FIRST_DELAY
        self._ended = False
        self._opened: float | None = None

    @abstractmethod
    def _read(self, event: ServerSentEvent) -> Item | None:
        """What an event says, if it says anything new. Raises: TypeError, ValueError: it is none of this service."""

    def __iter__(self) -> Iterator[Item]:
        fruitless = 0
        while True:
            before, self._opened, cut = self._last_id, None, True
            error: Exception
            try:
                yield from self._one_connection()
                error = unreachable(self._http.base_url, EOFError("the stream ended before its last line"))
            except httpx.RequestError as lost:
                error = unreachable(self._http.base_url, lost)
                cut = not isinstance(lost, httpx.TimeoutException)
            except ServiceUnreachable as lost:
                error = lost
            except ServiceError as refused:
                if not may_pass(refused):
                    raise
                error = refused
            if self._ended:
                return
            was_open = self._opened is not None and self._clock() - self._opened > KEEP_ALIVE
            fruitless = 0 if self._last_id != before or (cut and was_open) else fruitless + 1
            if fruitless == self._attempts:
                raise error
            self._sleep(delay(fruitless, self._retry))

    def _one_connection(self) -> Iterator[Item]:
        """What this connection brings until it ends, for whatever reason."""
        # Compression would hold lines back until a block is full, and a cut block could not be read.
        headers = {"Accept-Encoding": "identity"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        timeout = httpx.Timeout(**{**self._http.timeout.as_dict(), "read": SILENCE})
        with connect_sse(self._http, "GET", self._path, params=self._query, headers=headers, timeout=timeout) as source:
            if source.response.status_code == httpx.codes.NO_CONTENT:  # everything was seen before
                self._ended = True
                return
            if source.response.status_code != httpx.codes.OK:
                source.response.read()
                raise refusal(source.response)
            self._opened = self._clock()
            try:
                for event in source.iter_sse():
                    if event.retry is not None:
                        self._retry = max(event.retry / 1000, 0.1)
                    try:
                        item = self._read(event)
                    except (TypeError, ValueError) as error:
                        raise unexpected(source.response) from error
                    if item is not None:
                        yield item
                    if self._ended:
                        return
            except SSEError as error:  # not an event stream
                raise unexpected(source.response) from error


class LogFollower(Follower[StoredLogEntry]):
    """The lines of one task behind line number `after`; ends after the task's last line."""

    def __init__(self, http: httpx.Client, path: str, after: int = 0, **options: Any) -> None:
        super().__init__(http, path, str(after) if after else "", **options)
        self.last_id = after

    def _read(self, event: ServerSentEvent) -> StoredLogEntry | None:
        if event.event != "message" or not event.data:
            return None
        entry = StoredLogEntry.model_validate({**event.json(), "id": event.id})
        if entry.id <= self.last_id:
            return None
        self.last_id, self._last_id = entry.id, event.id
        self._ended = entry.status is not None and entry.status.is_terminal
        return entry


@dataclass(frozen=True)
class ServiceEvent:
    """Something that happened to a task; `id` is the place to go on from, also in another process."""

    id: str
    type: str
    task_id: str | None
    data: Mapping[str, Any]


class EventFollower(Follower[ServiceEvent]):
    """What happens to tasks, without an end.

    A place to go on from is known at all times, also before the first event, or what happened while a connection was
    cut would be lost: at the beginning it is what `begin` says, and frames with an id and no data move it on, which
    the service sends where everything was left out because nobody asked for it.
    """

    def __init__(
        self, http: httpx.Client, path: str, after: str = "", *, begin: Callable[[], str] = str, **options: Any
    ) -> None:
        """`begin` says what to begin behind where there is no `after`; if it says nothing, the service begins at now.

        It may fail as a connection may, and is asked again.
        """
        super().__init__(http, path, after, **options)
        self._begin = begin

    def _one_connection(self) -> Iterator[ServiceEvent]:
        self._last_id = self._last_id or self._begin()
        yield from super()._one_connection()

    def _read(self, event: ServerSentEvent) -> ServiceEvent | None:
        data = event.json() if event.data else None
        if event.data and not isinstance(data, dict):
            raise TypeError
        self._last_id = event.id or self._last_id
        if data is None:
            return None
        return ServiceEvent(event.id, event.event, data.get("task_id"), data)
