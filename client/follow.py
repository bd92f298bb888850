"""Following a log over a network that fails, without losing or repeating a line.

The service numbers the lines of a task 1, 2, 3... and publishes a line only after it is stored, so the
number of the last line seen is all that a follower must remember: a new connection with it in
`Last-Event-ID` goes on with the next line, also after a restart of the service. Protocol: "Server-sent
events" in the WHATWG HTML standard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
from httpx_sse import ServerSentEvent, SSEError, connect_sse

from client.errors import ServiceError, refusal, unexpected, unreachable
from models.schemas import StoredLogEntry

KEEP_ALIVE = 15.0
"""Seconds: the service sends a comment at least this often, so longer silence means a dead connection."""
SILENCE = 3 * KEEP_ALIVE
LONGEST_DELAY = 30.0
TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
"""Statuses that a service, or the proxy before it, gives while it starts, stops or is busy."""


class LogFollower:
    """One reader's place in one log.

    Iterating yields every line after `after`, each once, and ends after the task's last line. A lost
    connection is taken up again after the service's `retry:` time, which doubles, up to 30 s, for every
    attempt that brought nothing.

    Raises `ServiceError` where the service refuses, `ServiceUnreachable` after `attempts` attempts in a
    row that brought nothing. A connection that was cut after it had been open for a while does not count
    as one of those: a task may wait in the queue for days, behind a proxy that ends every long answer.
    """

    def __init__(
        self,
        http: httpx.Client,
        path: str,
        after: int = 0,
        *,
        attempts: int = 8,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last_id = after
        self._http = http
        self._path = path
        self._attempts = attempts
        self._sleep = sleep
        self._clock = clock
        self._retry = 1.0
        self._ended = False
        self._opened: float | None = None

    def __iter__(self) -> Iterator[StoredLogEntry]:
        fruitless = 0
        while True:
            before, self._opened, cut = self.last_id, None, True
            error: Exception
            try:
                yield from self._one_connection()
                error = unreachable(self._http.base_url, EOFError("the stream ended before its last line"))
            except httpx.RequestError as lost:
                error = unreachable(self._http.base_url, lost)
                cut = not isinstance(lost, httpx.TimeoutException)
            except ServiceError as refused:
                if refused.status_code not in TRY_AGAIN:
                    raise
                error = refused
            if self._ended:
                return
            was_open = self._opened is not None and self._clock() - self._opened > KEEP_ALIVE
            fruitless = 0 if self.last_id > before or (cut and was_open) else fruitless + 1
            if fruitless == self._attempts:
                raise error
            self._sleep(self._delay(fruitless))

    def _delay(self, fruitless: int) -> float:
        """Seconds to wait: never less than the service asked for."""
        doubled: float = self._retry * 2 ** max(fruitless - 1, 0)
        return max(self._retry, min(doubled, LONGEST_DELAY))

    def _one_connection(self) -> Iterator[StoredLogEntry]:
        """Lines until this connection ends, for whatever reason."""
        # Compression would hold lines back until a block is full, and a cut block could not be read.
        headers = {"Accept-Encoding": "identity"}
        if self.last_id:
            headers["Last-Event-ID"] = str(self.last_id)
        timeout = httpx.Timeout(**{**self._http.timeout.as_dict(), "read": SILENCE})
        with connect_sse(self._http, "GET", self._path, headers=headers, timeout=timeout) as source:
            if source.response.status_code == httpx.codes.NO_CONTENT:  # all lines were seen before
                self._ended = True
                return
            if source.response.status_code != httpx.codes.OK:
                source.response.read()
                raise refusal(source.response)
            self._opened = self._clock()
            try:
                for event in source.iter_sse():
                    yield from self._lines_of(event, source.response)
                    if self._ended:
                        return
            except SSEError as error:  # not an event stream
                raise unexpected(source.response) from error

    def _lines_of(self, event: ServerSentEvent, response: httpx.Response) -> Iterator[StoredLogEntry]:
        """The log line in an event, if it holds one that is new."""
        if event.retry is not None:
            self._retry = max(event.retry / 1000, 0.1)
        if event.event != "message" or not event.data:
            return
        try:
            entry = StoredLogEntry.model_validate({**event.json(), "id": event.id})
        except (TypeError, ValueError) as error:
            raise unexpected(response) from error
        if entry.id <= self.last_id:
            return
        self.last_id = entry.id
        self._ended = entry.status is not None and entry.status.is_terminal
        yield entry
