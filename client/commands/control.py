"""`stop` and `resume`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from client.commands import exits
from client.commands.listing import print_task
from client.commands.screen import complain, print_json, print_line
from client.commands.session import Session, TaskName, connected, pass_session
from client.commands.watch import watch_tasks
from models.schemas import TaskStatus


@click.command()
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True, type=TaskName())
@click.option("--wait", is_flag=True, help="Until they have ended.")
@connected
@pass_session
def stop(session: Session, tasks: tuple[str, ...], wait: bool) -> int:
    """Stop trainings: one that runs ends after its batch, one that waits does not begin.

    Each is tried, whatever becomes of the others; the exit status is the highest of theirs. With --wait it is 1 where
    one has failed.
    """
    statuses = [exits.OK]
    stopped: dict[str, None] = {}
    for name in tasks:
        with _its_own_end(statuses):
            task_id = session.find(name)
            if task_id not in stopped:
                _stop(session, task_id, is_last_word=not wait)
                stopped[task_id] = None
    for task_id in stopped if wait else ():
        with _its_own_end(statuses):
            statuses.append(_wait(session, task_id))
    return max(statuses)


@contextmanager
def _its_own_end(statuses: list[int]) -> Iterator[None]:
    """An error of one task is said at once, and kept from the next one."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - what nobody can do anything about is raised again
        status, sentence = exits.of_error(error)
        complain(sentence)
        statuses.append(status)


def _stop(session: Session, task_id: str, *, is_last_word: bool) -> None:
    answer = session.client.stop(task_id)
    if session.json and is_last_word:
        print_json(answer)
    elif not session.json:
        print_line(session.screen, f"{task_id}: {answer.message}")


def _wait(session: Session, task_id: str) -> int:
    """A task that is cancelled is what was asked for; one that had completed before has lost nothing."""
    ended = session.client.wait(task_id)
    if session.json:
        print_json(ended)
    else:
        print_line(session.screen, f"{task_id}: {ended.status}")
    return exits.FAILED if ended.status is TaskStatus.FAILED else exits.OK


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
