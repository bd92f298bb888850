"""`logs`: the lines of a task, stored or as they come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import dropwhile, islice, takewhile

import click

from client.commands.moments import moment_of, on_service_clock
from client.commands.screen import print_json, print_line
from client.commands.session import Session, TaskName, connected, pass_session
from client.training_client import LAST_LINE
from models.schemas import Stage, StoredLogEntry

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red", "DEBUG": "dim"}


@click.command()
@click.argument("task", metavar="TASK", type=TaskName())
@click.option("-f", "--follow", is_flag=True, help="Go on with lines as they come, until the task has ended.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="The last N of those that are there.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="ID", help="Lines behind this number.")
@click.option(
    "--since", metavar="TIME", help="Lines from this time on: 10m, 2h, or 2026-01-31T12:00 as the log has it."
)
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="Of this level or a worse one.")
@click.option("--stage", type=click.Choice([stage.value for stage in Stage]), help="Of this stage.")
@click.option("--contains", metavar="TEXT", help="With this text, in small or capital letters.")
@click.option("--raw", is_flag=True, help="The messages alone, as the trainer has printed them.")
@connected
@pass_session
def logs(
    session: Session,
    task: str,
    follow: bool,
    tail: int | None,
    after: int,
    since: str | None,
    level: str | None,
    stage: str | None,
    contains: str | None,
    raw: bool,
) -> None:
    """Print the log of a task. With --json each line is an object with its metrics."""
    task_id = session.find(task)
    wanted = _Wanted(level, stage, contains, None if since is None else _service_time(session, task_id, since))
    newest = _newest(session, task_id) if follow else LAST_LINE
    for entry in _stored(session, task_id, after, newest, tail, wanted):
        _show(session, entry, raw=raw)
    if follow:
        for entry in session.client.follow(task_id, after=max(after, newest)):
            if wanted.fits(entry):
                _show(session, entry, raw=raw)


class _Wanted:
    """Which lines are to be shown."""

    def __init__(self, level: str | None, stage: str | None, contains: str | None, since: datetime | None) -> None:
        self.levels = frozenset(LEVELS[LEVELS.index(level.upper()) :] if level else ())
        self.stage = stage
        self.contains = contains
        self.since = since

    def fits(self, entry: StoredLogEntry) -> bool:
        return (
            (not self.levels or entry.level.upper() in self.levels)
            and (self.stage is None or entry.stage == self.stage)
            and (self.contains is None or self.contains.casefold() in entry.message.casefold())
            and not self.is_too_old(entry)
        )

    def is_too_old(self, entry: StoredLogEntry) -> bool:
        return self.since is not None and entry.timestamp < self.since


def _stored(
    session: Session, task_id: str, after: int, newest: int, tail: int | None, wanted: _Wanted
) -> Iterator[StoredLogEntry]:
    """What is there up to the line `newest`, oldest first. Where the end alone is wanted, it is read from there."""
    filters = {"stage": wanted.stage, "contains": wanted.contains}
    if tail is None and wanted.since is None:
        forwards = session.client.history(task_id, after, page_size=1000, **filters)
        return filter(wanted.fits, takewhile(lambda entry: entry.id <= newest, forwards))
    backwards = session.client.history_backwards(task_id, page_size=min(1000, max(1, tail or 1000)), **filters)
    known = dropwhile(lambda entry: entry.id > newest, backwards)
    recent = takewhile(lambda entry: entry.id > after and not wanted.is_too_old(entry), known)
    return reversed(list(islice(filter(wanted.fits, recent), tail)))


def _newest(session: Session, task_id: str) -> int:
    """The number of the last line that is there, 0 without any.

    What is shown of the stored lines may end long before it, or be nothing at all, and what comes begins behind it.
    """
    return next((entry.id for entry in session.client.history_backwards(task_id, page_size=1)), 0)


def _service_time(session: Session, task_id: str, text: str) -> datetime:
    moment = moment_of(text)
    if moment.tzinfo is None:
        return moment
    changes = session.client.status(task_id, history=True).history or ()
    return on_service_clock(moment, [change.at for change in changes], is_local=session.is_local)


def _show(session: Session, entry: StoredLogEntry, *, raw: bool) -> None:
    if session.json:
        print_json(entry)
    elif raw:
        print(entry.message, flush=True)
    else:
        line = f"{entry.id:>6} {entry.timestamp:%m-%d %H:%M:%S} {entry.level:<7} {entry.message}"
        print_line(session.screen, line, STYLES.get(entry.level, ""))
