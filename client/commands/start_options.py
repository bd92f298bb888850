"""The options of `start`: one for every field of a request, with the words of the contract.

They are made of `models.schemas`, so a field that is added there has its option; the service alone checks values.
Trainings and commands share some fields, and an option cannot know yet for which of them it is: it takes what either
of them takes, and tells what both say of it.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from client.commands.exits import Unusable
from client.commands.number_option import NumberOption
from models.schemas import CommandRequest, ImportRequest, TrainingRequest

Function = TypeVar("Function", bound=Callable[..., Any])
_APART = frozenset({"command", "env", "metric_definitions"})
"""Fields that no single value of an option can hold."""
_STARTED = (TrainingRequest, CommandRequest)
_HELP = {
    "name": "folder name under --save-path, and a name for commands; default: the task's id",
    "description": "any words",
}


def request_options(command: Function) -> Function:
    for name in reversed({**TrainingRequest.model_fields, **CommandRequest.model_fields}):
        if name not in _APART:
            fields = [each.model_fields[name] for each in _STARTED if name in each.model_fields]
            command = click.option(f"--{name.replace('_', '-')}", name, **_option(name, *fields))(command)
    command = click.option("--env", "env", multiple=True, metavar="NAME[=VALUE]", help="For a command; a name alone "
                           "takes the value that it has here.")(command)  # fmt: skip
    return metric_definitions_option(command)


def reading_options(command: Function) -> Function:
    """How a log is read, and what its task is called."""
    for name in ("description", "task_id", "name", "log_format"):
        option = _option(name, ImportRequest.model_fields[name])
        command = click.option(f"--{name.replace('_', '-')}", name, **option)(command)
    return metric_definitions_option(command)


def metric_definitions_option(command: Function) -> Function:
    about = "A metric of your own, found by an RE2 pattern with one group; can be given several times."
    return click.option("--metric", "metric_definitions", multiple=True, metavar="NAME=REGEX", help=about)(command)


def given_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that were given, as the request has them.

    Raises: Unusable: NAME=VALUE has no name, or no value.
    """
    fields = {name: value for name, value in options.items() if value is not None and name not in _APART}
    if options.get("env"):
        fields["env"] = dict(map(_variable, options["env"]))
    if options.get("metric_definitions"):
        fields["metric_definitions"] = [_definition(each) for each in options["metric_definitions"]]
    if fields.get("pretrained") in ("true", "false"):
        fields["pretrained"] = fields["pretrained"] == "true"
    return fields


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if separator:
        return name, value
    if name not in os.environ:
        raise Unusable(f"--env {name}: there is no such variable here; write {name}=VALUE.")
    return name, os.environ[name]


def _definition(text: str) -> dict[str, str]:
    name, separator, regex = text.partition("=")
    if not separator or not name:
        raise Unusable(f"--metric {text!r}: write NAME=REGEX, for example --metric 'dice=Dice: ([0-9.]+)'.")
    return {"name": name, "regex": regex}


def _option(name: str, field: FieldInfo, *of_command: FieldInfo) -> dict[str, Any]:
    """What click is told of a field that one kind of request has, or both."""
    told = dict.fromkeys(each.description for each in (field, *of_command) if each.description)
    about = _HELP.get(name) or "; for a command: ".join(told)
    if not field.is_required() and field.default not in (None, ""):
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        about = f"{about} [{default}]".strip()
    kinds = list(dict.fromkeys(_flat(_kinds(each.annotation) for each in (field, *of_command))))
    option: dict[str, Any] = {"default": None, "help": about}
    literals = [value for value in kinds if isinstance(value, str)]
    if bool in kinds:
        option |= {"metavar": "true|false"} if not literals else {}
        return {**option, "type": click.Choice([*literals, "true", "false"]) if literals else bool}
    if number := next((kind for kind in (int, float) if kind in kinds), None):
        return {**option, "type": NumberOption(number, literals)}
    return {**option, "type": click.Choice(literals) if literals else str}


def _kinds(annotation: Any) -> list[Any]:
    """Types and literal values that a field may have, without `None`."""
    origin = get_origin(annotation)
    if origin is Literal:
        return list(get_args(annotation))
    if origin in (Union, types.UnionType):
        return list(_flat(_kinds(each) for each in get_args(annotation) if each is not type(None)))
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _kinds(get_args(annotation)[0])
    return [annotation]


def _flat(lists: Iterable[list[Any]]) -> Iterable[Any]:
    for each in lists:
        yield from each
