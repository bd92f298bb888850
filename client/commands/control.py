"""`stop` and `resume`."""

from __future__ import annotations

import click

from client.commands import exits
from client.commands.listing import print_task
from client.commands.screen import print_json, print_line
from client.commands.session import Session, TaskName, connected, pass_session
from client.commands.watch import watch_tasks


@click.command()
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True, type=TaskName())
@click.option("--wait", is_flag=True, help="Until they have ended.")
@connected
@pass_session
def stop(session: Session, tasks: tuple[str, ...], wait: bool) -> None:
    """Stop trainings: one that runs ends after its batch, one that waits does not begin."""
    ids = [session.find(name) for name in tasks]
    for task_id in ids:
        answer = session.client.stop(task_id)
        if session.json and not wait:
            print_json(answer)
        elif not session.json:
            print_line(session.screen, f"{task_id}: {answer.message}")
    for task_id in ids if wait else ():
        ended = session.client.wait(task_id)
        if session.json:
            print_json(ended)
        else:
            print_line(session.screen, f"{task_id}: {ended.status}")


@click.command()
@click.argument("task", metavar="TASK", type=TaskName())
@click.option("--watch", is_flag=True, help="Then watch it to its end.")
@connected
@pass_session
def resume(session: Session, task: str, watch: bool) -> int:
    """Let a training that was stopped or has failed go on after its last finished epoch."""
    resumed = session.client.resume(session.find(task))
    if watch:
        return watch_tasks(session, [resumed])
    if session.json:
        print_json(resumed)
    else:
        print_task(session, resumed)
    return exits.OK
