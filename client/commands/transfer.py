"""`export` and `import`: metrics into other programs' files, other programs' logs into the service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from client.commands import exits
from client.commands.listing import names_in, print_task
from client.commands.screen import print_json, print_line
from client.commands.session import Session, TaskName, connected, pass_session
from client.commands.start_options import given_fields, reading_options
from client.commands.watch import watch_tasks

Format = Literal["csv", "jsonl", "tensorboard"]


@click.command()
@click.argument("task", metavar="TASK", type=TaskName())
@click.option("--format", "form", type=click.Choice(("csv", "jsonl", "tensorboard")), default="csv", show_default=True)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="A file, or a folder that is there; for tensorboard a folder, which is made, or a file with tfevents in its "
    "name; - is standard output. [standard output; for tensorboard a folder TASK]",
)
@click.option("--metrics", help="These only, separated by commas.")
@connected
@pass_session
def export(session: Session, task: str, form: Format, output: str | None, metrics: str | None) -> None:
    """Write every point of a task's metrics as CSV, JSON Lines or a file of events for TensorBoard."""
    task_id = session.find(task)
    names = names_in(metrics or "") or None
    if output == "-" or (output is None and form != "tensorboard"):
        for piece in session.client.exported(task_id, form, names):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    file = _file(task_id, form, output)
    session.client.export(task_id, file, form, names)
    if session.json:
        print_json({"task_id": task_id, "format": form, "file": str(file)})
    else:
        print_line(session.screen, str(file))


def _file(task_id: str, form: Format, output: str | None) -> Path:
    """TensorBoard reads a run from a folder, and there only files with `tfevents` in their name."""
    path = Path(output or (task_id if form == "tensorboard" else ""))
    if form == "tensorboard":
        if "tfevents" in path.name and not path.is_dir():
            return path
        path.mkdir(parents=True, exist_ok=True)
        return path / f"events.out.tfevents.{task_id}"
    return path / f"{task_id}.{form}" if path.is_dir() else path


@click.command("import")
@click.argument("file", metavar="FILE")
@reading_options
@click.option("--follow", is_flag=True, help="The file is still being written: read on until the task is stopped.")
@click.option("--watch", is_flag=True, help="Then watch it to its end.")
@connected
@pass_session
def import_log(session: Session, /, file: str, follow: bool, watch: bool, **options: Any) -> int:
    """Make a task of the log file of any trainer. The service reads FILE itself, so it is a path on its machine."""
    path = str(Path(file).absolute()) if session.is_local else file
    fields = given_fields(options) | ({"follow": True} if follow else {})
    task = session.client.import_log(path, **fields)
    if watch:
        return watch_tasks(session, [task])
    if session.json:
        print_json(task)
    else:
        print_task(session, task)
    return exits.FAILED if task.status.is_terminal and task.status != "completed" else exits.OK
