"""The service's HTTP API as methods with types."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from client.errors import no_such_task, refusal, unexpected, unreachable
from client.follow import EventFollower, LogFollower, ServiceEvent
from client.patience import until_answered
from client.secrets import shown_address, shown_url, usable_token
from models.alerts import Channel, Firing, FiringList, Rule
from models.fields import RESERVED_TASK_IDS
from models.history import ComparisonResponse, MetricsResponse
from models.provenance import ProvenanceResponse
from models.results import RequestResponse
from models.schemas import (
    ActionResponse,
    CheckResponse,
    CommandRequest,
    HealthResponse,
    LogPage,
    NetworkInfo,
    NetworkList,
    ParsingTryResponse,
    ResourcesResponse,
    Stage,
    StoredLogEntry,
    TaskPage,
    TaskResponse,
    TrainingRequest,
)

TRAINING = "/api/v2/training"
RESOURCES = "/api/v2/resources"
ALERTS = "/api/v2/alerts"
LAST_LINE = 2**63 - 1
NO_TASK_IDS = RESERVED_TASK_IDS | {"", ".", ".."}
"""No task has one of these as its id, and in its place they ask for something else: the events, without an end."""
Answer = TypeVar("Answer", bound=BaseModel)


class TrainingClient:
    """A connection to one service. Use it as a context manager, or call `close`.

    Every method raises `ServiceError` where the service refuses and `ServiceUnreachable` where nobody
    answers within `timeout` seconds. Requests are sent once: whether a failed one may be repeated is the
    caller's to say; only `wait`, `follow` and `events` outlast restarts of the service. One client may be
    used from several threads.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`transport` and `sleep` (between attempts to take up a log) are for tests and unusual networks.

        Raises `ValueError` for a `base_url` that is none, and for a `token` that cannot be sent (`UnusableToken`,
        which says so without the token).
        """
        url = address_of(base_url)
        token = usable_token(token)
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else None,
            timeout=timeout,
            transport=transport,
            trust_env=not is_loopback(url.host),  # a proxy of the environment cannot reach this machine
            # uvicorn closes a connection that was idle for 5 s; be done with it before, or they race.
            limits=httpx.Limits(keepalive_expiry=3.0),
        )

    @property
    def base_url(self) -> str:
        return str(self._http.base_url).rstrip("/")

    @property
    def shown_url(self) -> str:
        """`base_url` for others to read: without the password that it may hold."""
        return shown_url(self._http.base_url)

    @property
    def has_token(self) -> bool:
        return "Authorization" in self._http.headers

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, request: TrainingRequest | CommandRequest | None = None, /, **fields: Any) -> TaskResponse:
        """Start a training: from a request, from its fields, or from both (fields win).

        With a `command` it is a trainer of your own: `start(command=["python", "train.py"], working_dir="/code")`.
        Fields are checked by the service alone, so there is one set of rules and one kind of error. To be
        able to repeat a start whose answer was lost, give a `task_id`: the second one is then a 409.
        """
        return self._ask("POST", f"{TRAINING}/start", TaskResponse, json=body_of(request, fields))

    def check(self, request: TrainingRequest | CommandRequest | None = None, /, **fields: Any) -> CheckResponse:
        """What `start` would say of a request, without starting it; `ServiceError` has each field's problem."""
        return self._ask("POST", f"{TRAINING}/check", CheckResponse, json=body_of(request, fields))

    def import_log(self, path: str | os.PathLike[str], **fields: Any) -> TaskResponse:
        """Make a task of a log file; with `follow=True` of one that is still being written."""
        return self._ask("POST", f"{TRAINING}/import", TaskResponse, json=written({"path": path, **fields}))

    def try_parsing(self, text: str, **reading: Any) -> ParsingTryResponse:
        """What lines of a log would give, with `metric_definitions` and `log_format`. Nothing is stored."""
        return self._ask("POST", "/api/v2/parsing/try", ParsingTryResponse, json={"text": text, **reading})

    def reparse(self, task_id: str, **reading: Any) -> TaskResponse:
        """Read a task's log once more, with other `metric_definitions` or another `log_format`."""
        return self._ask("POST", f"{task_path(task_id)}/reparse", TaskResponse, json=reading)

    def status(self, task_id: str, metrics: Iterable[str] | None = None, *, history: bool = False) -> TaskResponse:
        """A task with its latest metrics, or only those named in `metrics`; `history`: with every change of status."""
        query = {} if metrics is None else {"metrics": ",".join(metrics)}
        query |= {"history": "true"} if history else {}
        return self._ask("GET", task_path(task_id), TaskResponse, params=query)

    def request(self, task_id: str) -> RequestResponse:
        """What a task was asked for; of a command's environment the names alone."""
        return self._ask("GET", f"{task_path(task_id)}/request", RequestResponse)

    def provenance(self, task_id: str, *, attempt: int | None = None, against: str | None = None) -> ProvenanceResponse:
        """What a run was made from: code, packages, machine, data; `against` another task: in what they differ."""
        query = given(attempt=attempt, against=against)
        return self._ask("GET", f"{task_path(task_id)}/provenance", ProvenanceResponse, params=query)

    def tasks(self, status: str | Sequence[str] | None = None, *, page_size: int = 100) -> Iterator[TaskResponse]:
        """All tasks, or those in one of these states, newest first, fetched page by page as they are read."""
        page = self.list(status, limit=page_size)
        yield from page.tasks
        while page.next_cursor is not None:
            page = self.list(status, limit=page_size, cursor=page.next_cursor)
            yield from page.tasks

    def stop(self, task_id: str) -> ActionResponse:
        """Ask a task to stop. It ends, as `cancelled`, a little later: `wait` for it if that matters."""
        return self._ask("POST", f"{task_path(task_id)}/stop", ActionResponse)

    def resume(self, task_id: str) -> TaskResponse:
        """Let a training that was stopped or has failed go on, at the epoch after its last checkpoint."""
        return self._ask("POST", f"{task_path(task_id)}/resume", TaskResponse)

    def set_priority(self, task_id: str, priority: int) -> TaskResponse:
        """Move a task that waits: 1 runs first, 10 last. Its `queue_position` is then the new one."""
        return self._ask("PATCH", task_path(task_id), TaskResponse, json={"priority": priority})

    def delete(self, task_id: str) -> ActionResponse:
        """Forget a task that is over, with its log."""
        return self._ask("DELETE", task_path(task_id), ActionResponse)

    def history(
        self,
        task_id: str,
        after: int = 0,
        *,
        level: str | None = None,
        stage: Stage | str | None = None,
        contains: str | None = None,
        page_size: int = 500,
    ) -> Iterator[StoredLogEntry]:
        """The log so far, oldest line first, from the line after `after`. Does not wait for more."""
        query = {"limit": page_size, **given(level=level, stage=stage, contains=contains)}
        position: int | None = after
        while position is not None:
            page = self._ask("GET", f"{task_path(task_id)}/logs/history", LogPage, params={**query, "after": position})
            yield from page.entries
            position = page.next_after

    def history_backwards(
        self, task_id: str, *, stage: Stage | str | None = None, contains: str | None = None, page_size: int = 500
    ) -> Iterator[StoredLogEntry]:
        """The log so far, newest line first: its end is read without the rest."""
        query = {"limit": page_size, **given(stage=stage, contains=contains)}
        position: int | None = LAST_LINE
        while position is not None:
            page = self._ask("GET", f"{task_path(task_id)}/logs/history", LogPage, params={**query, "before": position})
            yield from reversed(page.entries)
            position = page.next_before

    def follow(self, task_id: str, after: int = 0) -> Iterator[StoredLogEntry]:
        """Every line of a task's log after `after`, each once, as they are written, until the task is over.

        Survives lost connections and restarts of the service; see `LogFollower`.
        """
        return iter(LogFollower(self._http, f"{task_path(task_id)}/logs", after, sleep=self._sleep))

    def events(
        self, task_ids: Iterable[str] = (), types: Iterable[str] = (), after: str = ""
    ) -> Iterator[ServiceEvent]:
        """What happens to all tasks, or to some, from now on, or from the event with the id `after`; without an end.

        Survives lost connections and restarts of the service, and tells what happened meanwhile.
        """
        query = {name: ",".join(each) for name, each in (("ids", task_ids), ("types", types)) if each}
        path = f"{TRAINING}/events"
        return iter(EventFollower(self._http, path, after, begin=self._now, query=query, sleep=self._sleep))

    def _now(self) -> str:
        """Of who has seen every event so far; nothing where the service is too old to say so."""
        return self.list(limit=1).event_id or ""

    def metrics(self, task_id: str, names: Iterable[str] | None = None, **query: Any) -> MetricsResponse:
        """The course of each metric, or of those named; `x`, `after`, `max_points` and more as in the guide."""
        named = None if names is None else ",".join(names)
        return self._ask("GET", f"{task_path(task_id)}/metrics", MetricsResponse, params=given(names=named, **query))

    def export(
        self,
        task_id: str,
        file: str | os.PathLike[str],
        format: Literal["csv", "jsonl", "tensorboard"] = "csv",  # noqa: A002 - the parameter's public name
        names: Iterable[str] | None = None,
    ) -> None:
        """Write every point of a task's metrics, or of those named, into a file, which is there once it is whole.

        TensorBoard reads files alone whose name has `tfevents` in it: `runs/a/events.out.tfevents.a`.
        """
        part = Path(f"{os.fspath(file)}.part")
        try:
            with part.open("wb") as written_to:
                for piece in self.exported(task_id, format, names):
                    written_to.write(piece)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    def exported(
        self,
        task_id: str,
        format: Literal["csv", "jsonl", "tensorboard"] = "csv",  # noqa: A002 - as in `export`
        names: Iterable[str] | None = None,
    ) -> Iterator[bytes]:
        """The file that `export` writes, in pieces as they come."""
        query = given(format=format, names=None if names is None else ",".join(names))
        try:
            with self._http.stream("GET", f"{task_path(task_id)}/metrics/export", params=query) as response:
                if not response.is_success:
                    response.read()
                    raise refusal(response)
                yield from response.iter_bytes()
        except httpx.RequestError as error:
            raise unreachable(self._http.base_url, error) from error

    def compare(self, task_ids: Iterable[str], names: Iterable[str] | None = None, **query: Any) -> ComparisonResponse:
        """Tasks side by side: their series on one axis, best and last values, and what their requests differ in."""
        named = None if names is None else ",".join(names)
        parts = given(ids=",".join(task_ids), names=named, **query)
        return self._ask("GET", f"{TRAINING}/compare", ComparisonResponse, params=parts)

    def alerts(self, task_id: str | None = None, **query: Any) -> Sequence[Firing]:
        """What has fired, newest first, and whether it was delivered."""
        return self._ask("GET", ALERTS, FiringList, params=given(task_id=task_id, **query)).alerts

    def add_alert_rule(self, **fields: Any) -> Rule:
        """Watch for something from now on: `name="bad", kind="threshold", condition="val_loss > 2 for 3 epochs"`."""
        return self._ask("POST", f"{ALERTS}/rules", Rule, json=fields)

    def add_alert_channel(self, **fields: Any) -> Channel:
        """Where firings are told: `name`, `kind` (webhook or apprise), `url` and, for webhooks, a `secret`."""
        return self._ask("POST", f"{ALERTS}/channels", Channel, json=fields)

    def wait(self, task_id: str) -> TaskResponse:
        """The task once it is over, however it ended. Survives lost connections and restarts of the service."""
        for _ in self.follow(task_id):
            pass
        return until_answered(lambda: self.status(task_id), sleep=self._sleep)

    def resources(self) -> ResourcesResponse:
        """What runs and waits on each device, and how much may."""
        return self._ask("GET", RESOURCES, ResourcesResponse)

    def set_limits(self, limits: Mapping[str, int | None]) -> ResourcesResponse:
        """How many tasks may run at a time on each of these devices: `{"cpu": 2, "cuda:0": 0}`.

        With 0 nothing more starts there; `None` returns to the service's setting. Nothing that runs is stopped.
        """
        return self._ask("POST", RESOURCES, ResourcesResponse, json={"limits": dict(limits)})

    def models(self) -> Sequence[NetworkInfo]:
        """The networks that the service can train."""
        return self._ask("GET", "/api/v2/models", NetworkList).models

    def health(self) -> HealthResponse:
        return self._ask("GET", "/api/v1/health", HealthResponse)

    def list(
        self, status: str | Sequence[str] | None = None, *, limit: int | None = None, cursor: str | None = None
    ) -> TaskPage:
        """One page of tasks, newest first; `tasks` reads them all."""
        return self._ask("GET", TRAINING, TaskPage, params=given(status=status, limit=limit, cursor=cursor))

    def _ask(self, method: str, path: str, answer: type[Answer], **parts: Any) -> Answer:
        try:
            response = self._http.request(method, path, **parts)
        except httpx.RequestError as error:
            raise unreachable(self._http.base_url, error) from error
        if not response.is_success:
            raise refusal(response)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise unexpected(response) from error


def address_of(base_url: str) -> httpx.URL:
    """Raises: ValueError: it is no address of a service; the message shows it without a password."""
    what = f"{shown_address(base_url)!r} is not an address of a service"
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        if "@" in base_url:  # where a password has a `/`, what httpx takes for the port is a part of it
            raise ValueError(f"{what}: a password in it has to be percent-encoded") from None
        raise ValueError(f"{what}: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host or (url.port or 0) > 65_535:
        raise ValueError(f"{what}: it should look like http://host:port")
    return url


def body_of(request: TrainingRequest | CommandRequest | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    return (request.model_dump(mode="json", exclude_unset=True) if request else {}) | written(fields)


def task_path(task_id: str) -> str:
    """Raises: ServiceError: 404, as the service's own, for what can be the id of no task."""
    if task_id in NO_TASK_IDS:
        raise no_such_task(task_id)
    return f"{TRAINING}/{quote(task_id, safe='')}"


def written(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as JSON holds them: a path is its text."""
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in fields.items()}


def given(**query: str | int | Sequence[str] | None) -> dict[str, str | int | Sequence[str]]:
    """The query parameters that were given."""
    return {name: value for name, value in query.items() if value is not None}


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
