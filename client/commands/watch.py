"""`watch`: tasks as they train, until they have ended.

Each task has a thread that follows its log; this one alone draws. What a picture shows comes from the log's lines, as
everywhere; the status, asked for every two seconds, adds the progress in percent and the place in the queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from client.commands import exits
from client.commands.listing import names_in, values_of
from client.commands.screen import print_json, print_line
from client.commands.session import Session, TaskName, connected, pass_session
from client.commands.several import overview
from client.display import COLUMNS, LINES_SHOWN, Board, LiveBoard, PlainBoard, is_live, shown
from client.errors import ServiceError, ServiceUnreachable
from client.patience import until_answered
from client.training_client import TrainingClient
from models.history import MetricsResponse, Unit
from models.schemas import StoredLogEntry, TaskResponse

ASK_EVERY_S = 2.0
DRAW_EVERY_S = 0.25
POINTS = 500
"""Of each metric that was there before: more epochs than a picture shows."""
News = StoredLogEntry | TaskResponse | MetricsResponse | Exception | str | None
"""A line, the status, what was there before, an error, what a person should know, or that the task has ended."""
PLACES = frozenset({"epoch", "total_epochs", "total_steps", "throughput", "eta"})
"""Metrics that say where a training is, not how good it is."""


@click.command()
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True, type=TaskName())
@click.option("--metrics", help="Columns, separated by commas. [what the task has]")
@connected
@pass_session
def watch(session: Session, tasks: tuple[str, ...], metrics: str | None) -> int:
    """Watch tasks until they have ended, on a terminal as a picture, else line by line; 1 if one has failed.

    Ctrl-C leaves them running. Restarts of the service are waited for.
    """
    found = [session.task(name) for name in tasks]
    return watch_tasks(session, list({task.task_id: task for task in found}.values()), names_in(metrics or ""))


def watch_tasks(session: Session, tasks: Sequence[TaskResponse], metrics: Sequence[str] = ()) -> int:
    """Show tasks until they have ended; returns the exit status.

    Raises:
        KeyboardInterrupt: it says how to stop what goes on.
        ServiceError, ServiceUnreachable: the log of a task cannot be followed any more.
    """
    watching = _Watching(session, tasks, metrics)
    try:
        watching.to_the_end()
    except KeyboardInterrupt:
        left = list(watching.open)
        goes_on = "it goes on" if len(left) == 1 else "they go on"
        how = f"{goes_on}. To stop: trainctl stop {' '.join(left)}" if left else "all has ended."
        raise KeyboardInterrupt(f"No longer watching; {how}") from None
    ended = [watching.ask_end(task.task_id) for task in tasks]
    for task in ended:
        watching.say_end(task)
    return exits.of_tasks(ended)


class _Watching:
    """Attributes:
    open: tasks that have not ended, as far as is known.
    """

    def __init__(self, session: Session, tasks: Sequence[TaskResponse], metrics: Sequence[str]) -> None:
        self._session = session
        self._metrics = metrics
        self._news: SimpleQueue[tuple[str, News]] = SimpleQueue()
        self._is_live = is_live(session.screen) and not session.json
        self.open = {task.task_id: None for task in tasks}
        self._is_alone = len(tasks) == 1
        self._trouble = ""
        self._boards = {task.task_id: self._board(task) for task in tasks}
        self._closed = threading.Event()

    def _board(self, task: TaskResponse) -> Board:
        label = "" if self._is_alone else task.name or task.task_id
        board: Board
        if self._session.json:
            board = Board(self._session.screen)
        elif self._is_live:
            board = _Picture(self._session.screen, label=label)
        else:
            board = PlainBoard(self._session.screen, label=label)
        board.columns = self._columns(set(values_of(task)))
        board.learn_units(task.units or {})
        if self._is_live or not task.status.is_terminal:
            board.update(task)
        return board

    def to_the_end(self) -> None:
        for task_id in self.open:
            threading.Thread(target=self._follow, args=(task_id,), daemon=True).start()
        threading.Thread(target=self._ask, args=(tuple(self.open),), daemon=True).start()
        live = Live(console=self._session.screen, auto_refresh=False, transient=False) if self._is_live else None
        try:
            if live is not None:
                live.start()
            drawn = 0.0
            while self.open:
                self._take(DRAW_EVERY_S)
                if live is not None and (time.monotonic() - drawn >= DRAW_EVERY_S or not self.open):
                    live.update(self._picture(), refresh=True)
                    drawn = time.monotonic()
        finally:
            self._closed.set()
            if live is not None:
                live.stop()

    def _take(self, timeout_s: float) -> None:
        with suppress(Empty):
            while True:
                task_id, news = self._news.get(timeout=timeout_s)
                timeout_s = 0
                self._hear(task_id, news)

    def _hear(self, task_id: str, news: News) -> None:
        board = self._boards.get(task_id)
        match news:
            case StoredLogEntry():
                assert board is not None
                self._trouble = ""
                board.columns = self._columns({*board.latest, *(news.metrics or ())})
                board.add(news)
                if self._session.json and (news.metrics or news.status):
                    print_json({"task_id": task_id, **news.model_dump(mode="json", exclude_unset=True)})
            case TaskResponse():
                assert board is not None
                self._trouble = ""
                board.learn_units(news.units or {})
                if self._is_live or not news.status.is_terminal:  # plain lines say it at their end
                    board.update(news)
            case MetricsResponse():
                assert board is not None
                _remember(board, news)
                board.columns = self._columns({*board.latest})
            case str():
                if not self._is_live and not self._session.json and news != self._trouble:
                    print_line(self._session.screen, news)
                self._trouble = news
            case None:
                self.open.pop(task_id, None)
            case _:
                raise news

    def _columns(self, names: set[str]) -> tuple[str, ...]:
        """The usual metrics first, then whatever else a trainer prints."""
        if self._metrics:
            return tuple(self._metrics)
        known = names - PLACES
        usual = [name for name in COLUMNS if name in known]
        return (*usual, *sorted(known.difference(COLUMNS)))

    def _picture(self) -> RenderableType:
        boards = list(self._boards.values())
        picture: RenderableType
        if self._is_alone:
            (board,) = boards
            assert isinstance(board, LiveBoard)
            picture = board.picture()
        else:
            picture = overview(boards, self._session.screen.width)
        return Group(picture, Text(self._trouble, style="yellow")) if self._trouble else picture

    def ask_end(self, task_id: str) -> TaskResponse:
        """The task that has ended, also where the service restarts just then."""

        def pause(seconds: float) -> None:
            if not self._session.json:
                print_line(self._session.screen, _waiting(seconds))
            time.sleep(seconds)

        return until_answered(lambda: self._session.client.status(task_id), sleep=pause)

    def say_end(self, task: TaskResponse) -> None:
        if self._session.json:
            print_json(task)
            return
        board = self._boards[task.task_id]
        if isinstance(board, PlainBoard):
            board.update(task)
            board.close()
        label = "" if self._is_alone else f"{board.label}: "
        best = values_of(task).get("best_acc")
        why = task.error or (task.reason if task.status != "completed" else None)
        if self._is_live or why:
            words = f"{label}The training is {task.status}"
            if self._is_live and best is not None:
                words += f", best accuracy {shown('best_acc', best, (task.units or {}).get('best_acc'))}"
            print_line(self._session.screen, f"{words}{f': {why}' if why else '.'}")

    def _follow(self, task_id: str) -> None:
        """In a thread of its own: the lines of one task, beginning with the metrics that it has already."""
        try:
            with self._connect() as client:
                after = self._catch_up(client, task_id)
                units: dict[str, Unit | None] = {}
                for entry in client.follow(task_id, after=after):
                    if not self._session.json and _has_new_unit(entry, units):
                        units |= self._ask_units(client, task_id)
                    self._news.put((task_id, entry))
                self._news.put((task_id, until_answered(lambda: client.status(task_id), sleep=self._pause)))
        except Exception as error:  # noqa: BLE001 - it is raised where somebody sees it
            self._news.put((task_id, error))
        else:
            self._news.put((task_id, None))

    def _catch_up(self, client: TrainingClient, task_id: str) -> int:
        """Bring the epochs so far without reading the whole log; returns the line to go on behind."""
        if not self._is_live:
            return 0
        known = until_answered(lambda: client.metrics(task_id, max_points=POINTS), sleep=self._pause)
        self._news.put((task_id, known))
        return max(0, known.last_id - LINES_SHOWN)

    def _ask_units(self, client: TrainingClient, task_id: str) -> dict[str, Unit | None]:
        """Learn the units of accuracies before the line with them is shown: a plain line is never drawn again."""
        try:
            task = client.status(task_id)
        except (ServiceError, ServiceUnreachable):  # the log is followed on, and its next line asks again
            return {}
        self._news.put((task_id, task))
        return {**dict.fromkeys(filter(_is_accuracy, values_of(task))), **(task.units or {})}

    def _ask(self, task_ids: Sequence[str]) -> None:
        """In a thread of its own: the status of each task, now and then."""
        with self._connect() as client:
            while not self._closed.wait(ASK_EVERY_S):
                for task_id in task_ids:
                    if task_id in self.open:
                        with suppress(ServiceError, ServiceUnreachable):  # whoever follows the log says so
                            self._news.put((task_id, client.status(task_id)))

    def _connect(self) -> TrainingClient:
        return self._session.connect(sleep=self._pause)

    def _pause(self, seconds: float) -> None:
        """Between attempts of a thread that follows a log, until whoever draws has gone."""
        self._news.put(("", _waiting(seconds)))
        self._closed.wait(seconds)


class _Picture(LiveBoard):
    """Drawn by whoever watches, at a pace of its own."""

    def show(self) -> None:
        return


def _waiting(seconds: float) -> str:
    return f"The service does not answer; trying again in {seconds:.0f} s."


def _is_accuracy(metric: str) -> bool:
    """Of other metrics there is no unit to ask for."""
    return metric.endswith("acc")


def _has_new_unit(entry: StoredLogEntry, known: Mapping[str, Unit | None]) -> bool:
    """Whether a line has an accuracy whose unit is not known, or one above 1 of a log that was taken for fractions."""
    return any(
        _is_accuracy(name) and (name not in known or (known[name] == "fraction" and value is not None and value > 1))
        for name, value in (entry.metrics or {}).items()
    )


def _remember(board: Board, known: MetricsResponse) -> None:
    board.learn_units({series.name: series.unit for series in known.series if series.unit})
    for series in known.series:
        if series.name not in PLACES:
            for epoch, value in zip(series.epochs or (), series.values, strict=False):
                if epoch is not None:
                    board.epochs.setdefault(int(epoch), {})[series.name] = value
                    board.latest[series.name] = value
