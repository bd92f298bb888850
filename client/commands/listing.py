"""`list` and `status`: which tasks there are, and how far they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import click

from client.commands.exits import Unusable
from client.commands.screen import print_fields, print_json, print_line, print_table
from client.commands.session import Session, TaskName, connected, pass_session
from client.display import as_percent, shown
from models.schemas import TaskResponse, TaskStatus, TrainingMetrics

DEFAULT_METRICS = ("val_acc", "val_loss", "train_loss")
FIELDS = ("created_at", "updated_at", "task_id", "name", "status", "progress", "device")
STATUSES = tuple(status.value for status in TaskStatus)
MOST = 50


def values_of(task: TaskResponse) -> dict[str, int | float | None]:
    return task.latest_metrics.model_dump(exclude_unset=True) if task.latest_metrics else {}


def shown_values_of(task: TaskResponse) -> dict[str, str]:
    """The latest value of each metric as people read it."""
    units = task.units or {}
    return {name: shown(name, value, units.get(name)) for name, value in values_of(task).items()}


def names_in(text: str) -> list[str]:
    """Names that are separated by commas."""
    return [name for part in text.split(",") if (name := part.strip())]


@click.command("list")
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="In one of these states.")
@click.option("--active", is_flag=True, help="That have not ended.")
@click.option("--name", "pattern", help="Whose name or id is like this, e.g. 'resnet*'.")
@click.option("--device", help="On this device, e.g. cuda:0.")
@click.option("--type", "task_type", type=click.Choice(("training", "import")))
@click.option(
    "--sort", metavar="FIELD", default="created_at", help=f"{', '.join(FIELDS)}, or a metric.", show_default=True
)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--limit", type=click.IntRange(min=1), help=f"So many at most. [{MOST}; all that a filter finds]")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--metrics", default=",".join(DEFAULT_METRICS), show_default=True, help="Columns, separated by commas.")
@connected
@pass_session
def list_tasks(
    session: Session,
    statuses: tuple[str, ...],
    active: bool,
    pattern: str | None,
    device: str | None,
    task_type: str | None,
    sort: str,
    reverse: bool,
    limit: int | None,
    everything: bool,
    metrics: str,
) -> None:
    """List tasks, newest first; sorted by a metric, best last value first as far as it is known which is good."""
    wanted = list(statuses or (STATUSES[:4] if active else ()))
    is_plain = not (pattern or device or task_type) and sort == "created_at" and not reverse
    tasks: Iterator[TaskResponse] = session.client.tasks(wanted or None, page_size=200 if not is_plain else 100)
    found: Iterable[TaskResponse] = (task for task in tasks if _fits(task, pattern, device, task_type))
    if is_plain:
        most = limit or (None if everything or wanted else MOST)
        found = list(islice(found, most if most is None else most + 1))
        is_more, found = most is not None and len(found) > most, found[:most]
    else:
        ordered = _sorted(list(found), sort, reverse=reverse)
        is_more, found = False, ordered[:limit]
    if session.json:
        for task in found:
            print_json(task)
        return
    columns = names_in(metrics)
    heads = ("task", "status", "%", "name", "device", *columns, "updated")
    rows = [
        (
            task.task_id,
            task.status.value,
            str(task.progress),
            task.name or "",
            task.device,
            *(values.get(name, "") for name in columns),
            f"{task.updated_at:%m-%d %H:%M}",
        )
        for task, values in ((task, shown_values_of(task)) for task in found)
    ]
    if rows:
        print_table(session.screen, heads, rows, keep=2)
    else:
        print_line(session.screen, "There is no such task." if wanted or not is_plain else "There is no task yet.")
    if is_more and session.screen.is_terminal:
        print_line(session.screen, f"The {most} newest; --all shows all.", "dim")


def _fits(task: TaskResponse, pattern: str | None, device: str | None, task_type: str | None) -> bool:
    if pattern and not any(fnmatchcase(each, pattern) for each in (task.task_id, task.name or "")):
        return False
    return (not device or task.device == device) and (not task_type or task.task_type == task_type)


def _sorted(tasks: list[TaskResponse], field: str, *, reverse: bool) -> list[TaskResponse]:
    """Times and metrics with the largest first, except losses; words as a dictionary has them; what is unknown last.

    Raises: Unusable: it is neither a field nor a metric that the service documents, and no task has such a metric.
    """
    keys: list[tuple[Any, TaskResponse]] = []
    unknown: list[TaskResponse] = []
    for task in tasks:
        key = getattr(task, field) if field in FIELDS else _comparable(task, field)
        if key is None:
            unknown.append(task)
        else:
            keys.append((key, task))
    if unknown and not keys and field not in FIELDS and field not in TrainingMetrics.model_fields:
        known = sorted({name for task in tasks for name in values_of(task)})
        have = f"They have {', '.join(known)}" if known else "They have none yet"
        raise Unusable(f"--sort {field}: none of these tasks has such a metric. {have}; or give {', '.join(FIELDS)}.")
    is_descending = field in ("created_at", "updated_at", "progress") or (
        field not in FIELDS and not field.endswith("loss")
    )
    keys.sort(key=lambda pair: pair[0], reverse=is_descending is not reverse)
    return [task for _, task in keys] + unknown


def _comparable(task: TaskResponse, metric: str) -> int | float | None:
    """The latest value, accuracies as percent whatever their logs print."""
    value = values_of(task).get(metric)
    return None if value is None else as_percent(value, (task.units or {}).get(metric))


@click.command()
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True, type=TaskName())
@connected
@pass_session
def status(session: Session, tasks: tuple[str, ...]) -> None:
    """Show how far tasks are, with the latest value of every metric."""
    for number, name in enumerate(tasks):
        task = session.task(name)
        if session.json:
            print_json(task)
            continue
        if number:
            print_line(session.screen, "")
        print_task(session, task)


def print_task(session: Session, task: TaskResponse) -> None:
    fields = {
        "task": task.task_id,
        "name": task.name,
        "description": task.description,
        "status": task.status.value,
        "reason": task.reason,
        "error": task.error,
        "progress": f"{task.progress}%",
        "epoch": None if task.current_epoch is None else f"{task.current_epoch}/{task.total_epochs or '?'}",
        "device": task.device,
        "queue position": task.queue_position,
        "attempt": task.attempt,
        "alerts": task.alerts,
        "storage": task.storage,
        "created": task.created_at.isoformat(" ", "seconds"),
        "updated": task.updated_at.isoformat(" ", "seconds"),
    }
    lines = {name: str(value) for name, value in fields.items() if value is not None}
    lines |= {f"warning {number}": text for number, text in enumerate(task.warnings or (), 1)}
    print_fields(session.screen, lines)
    if values := shown_values_of(task):
        print_line(session.screen, "")
        print_fields(session.screen, values)
