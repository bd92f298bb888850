"""What every command shares: which service, which token, which form of output; and which task is meant by a name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import click
import httpx
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter, ValidationError

from client.commands.exits import NotFound, Unusable
from client.commands.screen import Screen
from client.errors import ServiceError, ServiceUnreachable
from client.training_client import TrainingClient, is_loopback
from models.fields import RESERVED_TASK_IDS, TaskId
from models.schemas import TaskResponse

DEFAULT_URL = "http://127.0.0.1:8000"
SHORTEST_PREFIX = 4
"""Characters of an id that may stand for all of it."""
TIMEOUT_S = 30.0
COMPLETION_TIMEOUT_S = 1.0
MOST_COMPLETIONS = 100
_TASK_ID = TypeAdapter[str](TaskId)
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Session:
    url: str = field(default_factory=lambda: os.environ.get("TRAINING_SERVICE_URL") or DEFAULT_URL)
    token: str | None = field(default_factory=lambda: os.environ.get("TRAINING_SERVICE_TOKEN") or None)
    json: bool = False

    @cached_property
    def screen(self) -> Screen:
        return Screen()

    @cached_property
    def client(self) -> TrainingClient:
        return self.connect()

    def connect(self, timeout: float = TIMEOUT_S, **options: Any) -> TrainingClient:
        try:
            return TrainingClient(self.url, token=self.token, timeout=timeout, **options)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise Unusable(_how_to_connect(error)) from error

    def close(self) -> None:
        if "client" in vars(self):
            self.client.close()

    @property
    def is_local(self) -> bool:
        """Whether the service sees the files that this command sees, as far as can be told from its address."""
        return is_loopback(httpx.URL(self.client.base_url).host)

    def find(self, name: str) -> str:
        """The id of the task that is meant by its id, by its name, or by the first characters of its id.

        Raises:
            NotFound: none is meant, or several are.
        """
        return self.task(name).task_id

    def task(self, name: str) -> TaskResponse:
        """As `find`: the task itself."""
        if _may_be_id(name):
            try:
                return self.client.status(name)
            except ServiceError as error:
                if error.status_code not in (404, 422):
                    raise
        return self._by_name(name)

    def _by_name(self, name: str) -> TaskResponse:
        named: list[TaskResponse] = []
        begun: list[TaskResponse] = []
        for task in self.client.tasks(page_size=200):
            if task.name == name:
                named.append(task)
            elif task.task_id.startswith(name):
                begun.append(task)
        is_long_enough = len(name) >= SHORTEST_PREFIX
        match named or (begun if is_long_enough else []):
            case [task]:
                return task
            case [] if begun:
                few = f"of the beginning of an id at least {SHORTEST_PREFIX} characters are needed"
                raise NotFound(f"There is no task {name!r}; {few}. 'trainctl list' shows all tasks.")
            case []:
                raise NotFound(f"There is no task {name!r}; 'trainctl list' shows all tasks.")
            case several:
                ids = ", ".join(task.task_id for task in several[:5])
                more = f" and {len(several) - 5} more" if len(several) > 5 else ""
                raise NotFound(f"{name!r} may be any of {len(several)} tasks: {ids}{more}. Give the id of one.")


def _how_to_connect(error: Exception) -> str:
    """What is wrong with what a connection is made of: the address, the token, or a proxy of the environment."""
    said = str(error).rstrip(".")
    if "is not an address of a service" in said:
        return f"{said}. Correct --url or TRAINING_SERVICE_URL."
    if isinstance(error, ImportError | httpx.InvalidURL) or "proxy" in said:
        return f"{said}. Correct or unset the proxy of the environment: ALL_PROXY, HTTPS_PROXY or HTTP_PROXY."
    return f"{said}."


def _may_be_id(name: str) -> bool:
    """A name may be any text, and asked for as an id it may be another route, as `events`, which never ends."""
    try:
        _TASK_ID.validate_python(name)
    except ValidationError:
        return False
    return name not in RESERVED_TASK_IDS


class TaskName(click.ParamType[str]):
    """An argument that names a task. Shells complete it with what the service has."""

    name = "task"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        session = ctx.ensure_object(Session)
        try:
            with session.connect(timeout=COMPLETION_TIMEOUT_S) as client:
                tasks = client.list(limit=MOST_COMPLETIONS).tasks
        except (ServiceError, ServiceUnreachable, Unusable):  # a shell must never show an error in the middle of a line
            return []
        items = {task.task_id: f"{task.status} {task.name or ''}" for task in tasks}
        items |= {task.name: f"{task.status} {task.task_id}" for task in tasks if task.name}
        return [CompletionItem(each, help=about) for each, about in items.items() if each.startswith(incomplete)]


def connected(command: Function) -> Function:
    """The options that every command has. They may stand before the command's name or behind it."""

    def keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def set_it(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
            session = ctx.ensure_object(Session)
            if value:
                setattr(session, name, value)

        return set_it

    shared: dict[str, Any] = {"expose_value": False}
    command = click.option(
        "--json", is_flag=True, callback=keep("json"), help="One JSON object a line, as the API has it.", **shared
    )(command)
    command = click.option(
        "--token",
        metavar="TOKEN",
        callback=keep("token"),
        help="A token of the service; others on this machine can read it here. [$TRAINING_SERVICE_TOKEN]",
        **shared,
    )(command)
    return click.option(
        "--url",
        metavar="URL",
        callback=keep("url"),
        help=f"Where the service is. [$TRAINING_SERVICE_URL, {DEFAULT_URL}]",
        **shared,
    )(command)


pass_session = click.make_pass_decorator(Session, ensure=True)
