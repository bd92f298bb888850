"""`start`: a training from options, from JSON, or like another one; or a command of one's own."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import click
import httpx

from client.commands import exits
from client.commands.exits import Unusable
from client.commands.listing import print_task
from client.commands.screen import print_json, print_line
from client.commands.session import Session, TaskName, connected, pass_session
from client.commands.start_options import given_fields, request_options
from client.commands.watch import watch_tasks
from client.errors import ServiceUnreachable

PATHS = ("train_path", "val_path", "save_path", "weight_path", "working_dir")
OF_ONE_TASK = ("task_id", "name", "executor")
"""What a new task does not take over from another one."""

EXAMPLES = """\b
Examples:
  trainctl start --model resnet18 --num-classes 10 --train-path data/train --val-path data/val --save-path runs
  trainctl start --file request.json --learning-rate 0.01
  trainctl start --like digits --seed 2 --watch
  trainctl start --device cpu -- python train.py --epochs 10
"""


@click.command(epilog=EXAMPLES)
@click.argument("command", metavar="[-- PROGRAM [ARGUMENT...]]", nargs=-1, type=click.UNPROCESSED)
@click.option("--file", "file", metavar="FILE", help="JSON of a request; - reads standard input. Options win over it.")
@click.option("--like", metavar="TASK", type=TaskName(), help="As this task was started. Options and --file win.")
@click.option("--check", is_flag=True, help="Say what would be wrong or doubtful, and start nothing.")
@click.option("--watch", is_flag=True, help="Then watch it to its end; 1 if it fails.")
@request_options
@connected
@pass_session
def start(
    session: Session,
    /,
    command: tuple[str, ...],
    file: str | None,
    like: str | None,
    check: bool,
    watch: bool,
    **options: Any,
) -> int:
    """Start a training of an image classifier, or of a program of your own behind '--'.

    Relative paths, of options and of --file, are of this folder where the service runs on this machine. What neither
    says is the service's default.
    """
    old = _like(session, like) if like else {}
    here = _with(_read(file) if file else {}, given_fields(options))
    if command:
        here["command"] = list(command)
    if like:
        _refuse_hidden(old, here, like)
    fields = _with(old, _absolute(session, here))
    if "command" in here and session.is_local:
        fields.setdefault("working_dir", str(Path.cwd()))
    if check:
        found = session.client.check(**fields)
        if session.json:
            print_json(found)
        else:
            for warning in found.warnings:
                print_line(session.screen, f"Warning: {warning}", "yellow")
            print_line(session.screen, f"This can be started; it would run on {found.device}.")
        return exits.OK
    try:
        task = session.client.start(**fields)
    except ServiceUnreachable as lost:
        if isinstance(lost.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
            raise
        doubt = "It may have been started all the same: look with 'trainctl list' before you try again"
        raise ServiceUnreachable(f"{lost}. {doubt}") from lost
    if not session.json:
        for warning in task.warnings or ():
            print_line(session.screen, f"Warning: {warning}", "yellow")
    if watch:
        if not session.json:
            print_line(session.screen, f"Task {task.task_id} on {task.device}; Ctrl-C leaves it running.")
        return watch_tasks(session, [task])
    if session.json:
        print_json(task)
    elif sys.stdout.isatty():
        print_task(session, task)
    else:
        print_line(session.screen, task.task_id)
    return exits.OK


def _like(session: Session, name: str) -> dict[str, Any]:
    answer = session.client.request(session.find(name))
    if answer.kind == "import":
        raise Unusable(f"Task {name!r} is an imported log: there is no training to start again.")
    return {field: value for field, value in answer.request.items() if field not in OF_ONE_TASK}


def _with(fields: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Fields, and those that win over them; of an environment each variable does so for itself."""
    both = fields | given
    if isinstance(fields.get("env"), dict) and isinstance(given.get("env"), dict):
        both["env"] = fields["env"] | given["env"]
    return both


def _refuse_hidden(old: dict[str, Any], here: dict[str, Any], like: str) -> None:
    """The service tells nobody what a command's environment held. What is none is for the service to refuse.

    Raises: Unusable: a variable of the old task was not given again.
    """
    given = here.get("env", {})
    hidden = [name for name in old.get("env", ()) if name not in given] if isinstance(given, dict) else []
    if hidden:
        options = " ".join(f"--env {name}=VALUE" for name in hidden)
        raise Unusable(f"The service does not tell the values of the environment of {like!r}: give {options}.")


def _read(file: str) -> dict[str, Any]:
    where = "standard input" if file == "-" else file
    if file == "-" and sys.stdin is None:
        raise Unusable("There is no standard input to read.")
    content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:  # bytes: in any form of Unicode, with a byte order mark or without
        fields = json.loads(content, parse_constant=_finite, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise Unusable(f"What is in {where} is no text in UTF-8, at its byte {error.start + 1}.") from error
    except (ValueError, RecursionError) as error:
        raise Unusable(f"What is in {where} is not JSON: {str(error).rstrip('.')}.") from error
    if not isinstance(fields, dict):
        raise Unusable(f"What is in {where} is no request: it must be one object, as the body of start.")
    return fields


def _finite(text: str) -> float:
    """Raises: ValueError: a number that Python's JSON knows, but no other."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that it has")
    return number


def _absolute(session: Session, fields: dict[str, Any]) -> dict[str, Any]:
    """The service may run in another folder; on another machine, it alone knows what a path means."""
    if not session.is_local:
        return fields
    return {name: _absolute_path(value) if name in PATHS else value for name, value in fields.items()}


def _absolute_path(value: Any) -> Any:
    """What is no path, as a file may have it, is left for the service to refuse."""
    return str(Path(value).absolute()) if isinstance(value, str) and value else value
