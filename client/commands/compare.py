"""`compare`: tasks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.cells import cell_len

from client.commands.exits import Unusable
from client.commands.listing import names_in
from client.commands.screen import print_json, print_line, print_table
from client.commands.session import Session, TaskName, connected, pass_session
from client.display import shown
from models.history import ComparedMetric, ComparisonResponse
from models.provenance import ProvenanceResponse

LONGEST_VALUE = 60
FEWEST_POINTS = 16
"""Best and last values are told of any number of points."""


@click.command()
@click.argument("tasks", metavar="TASK TASK...", nargs=-1, required=True, type=TaskName())
@click.option("--metrics", help="These only, separated by commas.")
@click.option("--diff", is_flag=True, help="Also in what code, packages, machine and data of their runs differ.")
@connected
@pass_session
def compare(session: Session, tasks: tuple[str, ...], metrics: str | None, diff: bool) -> None:
    """Show the best value of each metric of several tasks, and what their requests differ in.

    Accuracies are percent. Where it is not known which values are good, the last one is shown.
    """
    ids = list(dict.fromkeys(session.find(name) for name in tasks))
    if len(ids) < 2:
        raise Unusable("Name two different tasks at least.")
    answer = session.client.compare(ids, names_in(metrics or "") or None, max_points=FEWEST_POINTS)
    found = [session.client.provenance(task_id, against=ids[0]) for task_id in ids[1:]] if diff else []
    if session.json:
        whole: dict[str, Any] = {"comparison": answer.model_dump(mode="json", exclude_unset=True, exclude={"series"})}
        if diff:
            whole["provenance"] = [each.model_dump(mode="json", exclude_unset=True) for each in found]
        print_json(whole)
        return
    _print_comparison(session, answer)
    for each in found:
        _print_differences(session, answer, each)


def _print_comparison(session: Session, answer: ComparisonResponse) -> None:
    heads = ["", *(_title(answer, task.task_id) for task in answer.tasks)]
    rows = [
        ["status", *(task.status.value for task in answer.tasks)],
        ["model", *(task.model or "" for task in answer.tasks)],
        ["seconds", *(f"{task.duration_s:.0f}" if task.duration_s is not None else "" for task in answer.tasks)],
    ]
    rows += [[row.metric, *(_standing(row, task.task_id) for task in answer.tasks)] for row in answer.table]
    print_side_by_side(session, heads, rows)
    if answer.differences:
        print_line(session.screen, "")
        print_line(session.screen, "Different in their requests:", "bold")
        print_side_by_side(
            session,
            heads,
            [
                [each.field, *(_value(each.values, task.task_id) for task in answer.tasks)]
                for each in answer.differences
            ],
        )


def _print_differences(session: Session, answer: ComparisonResponse, found: ProvenanceResponse) -> None:
    """Of one task to the first; fields of their requests are in the comparison already."""
    other = found.against or ""
    print_line(session.screen, "")
    if not (apart := [each for each in found.differences or () if not each.field.startswith("request.")]):
        print_line(session.screen, f"{found.task_id} was made from the same as {other}.", "bold")
        return
    print_line(session.screen, "Different in what they were made from:", "bold")
    tasks = (other, found.task_id)
    heads = ["", *(_title(answer, task_id) for task_id in tasks)]
    print_side_by_side(
        session, heads, [[each.field, *(_value(each.values, task_id) for task_id in tasks)] for each in apart]
    )


def print_side_by_side(session: Session, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A column for each task where the terminal has room for them, else a line for each value."""
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    if sum(widths) + 2 * len(widths) <= session.screen.width:
        print_table(session.screen, heads, rows, keep=len(heads))
        return
    for name, *values in rows:
        print_line(session.screen, name, "bold")
        for head, value in zip(heads[1:], values, strict=True):
            print_line(session.screen, f"  {head}: {value}")


def _title(answer: ComparisonResponse, task_id: str) -> str:
    names = [task.name for task in answer.tasks]
    name = next(task.name for task in answer.tasks if task.task_id == task_id)
    return name if name and names.count(name) == 1 else task_id


def _standing(row: ComparedMetric, task_id: str) -> str:
    """The best value, marked where it is the best of all tasks, with its epoch; else the last one."""
    value = row.tasks.get(task_id)
    if value is None:
        return ""
    if value.best is None:
        return shown(row.metric, value.last, row.unit)
    all_best = [each.best for each in row.tasks.values() if each.best is not None]
    is_best = len(all_best) > 1 and value.best == (min if row.goal == "min" else max)(all_best)
    epoch = "" if value.best_epoch is None else f" @{value.best_epoch:g}"
    return f"{shown(row.metric, value.best, row.unit)}{epoch}{' *' if is_best else ''}"


def _value(values: dict[str, Any], task_id: str) -> str:
    if task_id not in values:
        return ""
    text = str(values[task_id])
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
