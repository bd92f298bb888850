"""A training on the screen: a live picture on a terminal, plain lines everywhere else.

Both are fed the same way, a log line at a time, which is all that a display of one's own needs too. The demonstration
and `trainctl watch` show trainings by it.
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from models.history import Unit
from models.schemas import StoredLogEntry, TaskResponse, TaskStatus

COLUMNS = ("train_loss", "train_acc", "val_loss", "val_acc", "macro_f1", "mAP", "learning_rate")
EPOCHS_SHOWN = 12
LINES_SHOWN = 6
VALUES_SHOWN = 4
"""Latest values that a line has room for, of a log that counts no epochs."""
PLAIN_INTERVAL = 10.0
"""Seconds between progress lines where there is no terminal."""

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]"  # CSI: colours, moves
    r"|[\]PX^_][^\x07\x1b]*+(?:\x07|\x1b\\)"  # OSC and other strings: titles, links
    r"|[ -/]*+[0-~])"  # any other; of one that is broken off, its beginning
    r"|[\x07\x08\x0b\x0c]"  # bell, backspace and feeds take no place
)
"""Escape codes as ECMA-48 has them. They may come from anybody and be of any length: no letter is looked at twice."""

Number = int | float | None


class Board:
    """What a display knows: the metrics of each epoch, the latest value of each, the last lines."""

    def __init__(self, console: Console, *, label: str = "", columns: Sequence[str] = COLUMNS) -> None:
        """`label` stands in front of plain lines, where several tasks share a screen; `columns` are metrics to show."""
        self.console = console
        self.label = label
        self.columns = tuple(columns)
        self.task: TaskResponse | None = None
        self.latest: dict[str, Number] = {}
        self.units: dict[str, Unit] = {}
        self.step: int | None = None
        self.epochs: dict[int, dict[str, Number]] = {}
        self.lines: deque[StoredLogEntry] = deque(maxlen=LINES_SHOWN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, entry: StoredLogEntry) -> None:
        """Take in one line of the log, with the metrics that the service read from it."""
        self.lines.append(entry)
        metrics = entry.metrics or {}
        self.latest |= metrics
        self.step = entry.step
        epoch = self.latest.get("epoch")
        if epoch is not None and metrics:
            self.epochs.setdefault(int(epoch), {}).update(metrics)
        self.show()

    def update(self, task: TaskResponse) -> None:
        """Take in the task's state as `GET status` answers it."""
        self.task = task
        self.learn_units(task.units or {})
        self.show()

    def learn_units(self, units: Mapping[str, Unit]) -> None:
        """Take in the units of a foreign log's accuracies, which its lines alone do not tell."""
        self.units |= units

    def show(self) -> None:
        """Draw what is known now."""

    def close(self) -> None:
        """Draw what is left to draw."""

    def shown(self, name: str, value: Number) -> str:
        """A value of the task in its unit."""
        return shown(name, value, self.units.get(name))

    def position(self) -> str:
        """Where the training is, in words: `epoch 3/8, step 12/23, 840 images/s, 2 s to the epoch's end`."""
        latest, parts = self.latest, []
        if latest.get("epoch") is not None:
            parts.append(f"epoch {latest['epoch']}/{latest.get('total_epochs') or '?'}")
        elif self.task is not None:
            parts.append(self.task.status)
        if self.step is not None:
            parts.append(f"step {self.step}/{latest.get('total_steps') or '?'}")
            if (speed := latest.get("throughput")) is not None:
                parts.append(f"{speed:.0f} images/s")
            if (left := latest.get("eta")) is not None:
                parts.append(f"{left:.0f} s to the epoch's end")
        if not self.epochs:
            known = [name for name in self.columns if name in latest][:VALUES_SHOWN]
            parts += [f"{name} {self.shown(name, latest[name])}" for name in known]
        return ", ".join(parts)


class LiveBoard(Board):
    """Progress bar, table of epochs and last lines, redrawn in place."""

    def __init__(self, console: Console, **options: Any) -> None:
        super().__init__(console, **options)
        self._live = Live(console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def show(self) -> None:
        self._live.update(self.picture())

    def picture(self) -> Group:
        """What is known now, as narrow as the terminal wants it."""
        return Group(self._bar(), self._table(), *self._log())

    def close(self) -> None:
        self._live.stop()

    def _bar(self) -> Table:
        progress = self.task.progress if self.task else 0
        row = Table.grid(padding=(0, 1))
        width = min(30, max(5, self.console.width // 3))
        row.add_row(ProgressBar(total=100, completed=progress, width=width), f"{progress}%", self.position())
        return row

    def _table(self) -> Table:
        columns = self._fitting()
        heads = ["lr" if name == "learning_rate" else name for name in columns]
        table = Table("epoch", *heads, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for epoch in sorted(self.epochs)[-EPOCHS_SHOWN:]:
            table.add_row(str(epoch), *(self.shown(name, self.epochs[epoch].get(name)) for name in columns))
        if not self.epochs and self.latest:  # a log that counts none
            table.add_row("", *(self.shown(name, self.latest.get(name)) for name in columns))
        return table

    def _fitting(self) -> list[str]:
        """The first columns, as many as the terminal has room for."""
        room, found = self.console.width - len("epoch") - 3, []  # with the table's edges
        for name in self.columns:
            values = self.epochs.values() if self.epochs else [self.latest]
            widest = max(len(self.shown(name, each.get(name))) for each in values)
            room -= max(widest, cell_len("lr" if name == "learning_rate" else name)) + 2
            if room < 0:
                break
            found.append(name)
        return found

    def _log(self) -> list[Text]:
        styles = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
        return [
            Text(
                f"{entry.id:>5} {printable(entry.message)}",
                style=styles.get(entry.level, "dim"),
                no_wrap=True,
                overflow="ellipsis",
            )
            for entry in self.lines
        ]


class PlainBoard(Board):
    """One line for every epoch, state and warning, and one every 10 s in between."""

    def __init__(self, console: Console, **options: Any) -> None:
        super().__init__(console, **options)
        self._status: TaskStatus | None = None
        self._printed: int | None = None
        self._last = time.monotonic()

    def add(self, entry: StoredLogEntry) -> None:
        super().add(entry)
        if entry.level in {"WARNING", "ERROR", "CRITICAL"}:
            self._say(f"{entry.level}: {entry.message}")

    def show(self) -> None:
        if self.task is not None and self.task.status is not self._status:
            self._status = self.task.status
            if self._status.is_terminal:
                self._say_epochs(sorted(self.epochs))
            self._say(f"The training is {self._status}.")
        self._say_epochs(sorted(self.epochs)[:-1])  # an epoch is over when the next one speaks
        if time.monotonic() - self._last > PLAIN_INTERVAL:
            self._say(f"{self.task.progress if self.task else 0:3d}% {self.position()}")

    def close(self) -> None:
        self._say_epochs(sorted(self.epochs))

    def _say_epochs(self, epochs: list[int]) -> None:
        for epoch in epochs:
            if self._printed is None or epoch > self._printed:
                self._printed = epoch
                values = self.epochs[epoch]
                known = [f"{name} {self.shown(name, values[name])}" for name in self.columns if name in values]
                self._say(f"epoch {epoch}/{self.latest.get('total_epochs') or '?'}: {', '.join(known)}")

    def _say(self, line: str) -> None:
        self._last = time.monotonic()
        say(self.console, f"{self.label}: {line}" if self.label else line)


def board_for(console: Console) -> Board:
    """Moving pictures make a log file unreadable, so they are for terminals alone."""
    return LiveBoard(console) if is_live(console) else PlainBoard(console)


def is_live(console: Console) -> bool:
    """Whether a picture can be redrawn in place."""
    return sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal


def shown(metric: str, value: Number, unit: Unit | None = None) -> str:
    """A value as people read it: percent for accuracies, else a plain number.

    Args:
        unit: what the service says of an accuracy. Where it says nothing, as of its own trainer, that is percent.
    """
    if value is None:
        return "-"
    if unit or metric.endswith("_acc"):
        return f"{as_percent(value, unit):.2f}%"
    if metric == "learning_rate":
        return f"{value:.2e}"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def as_percent(value: int | float, unit: Unit | None) -> int | float:
    """An accuracy in the unit in which those of all tasks can be compared; any other metric is left as it is."""
    return value * 100 if unit == "fraction" else value


def say(console: Console, line: str) -> None:
    """Print a line, whoever has written it, above a live display if there is one."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def printable(message: str) -> str:
    """A stranger's log line without what would steer the terminal: escape codes, control characters."""
    plain = _ESCAPES.sub("", message).rstrip("\r\n")
    return "".join(letter if letter.isprintable() else " " for letter in plain)
