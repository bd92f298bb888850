"""A task's stored lines, read once more with other patterns, and what that changes.

Reading is the long part, and is done page by page without a lock; the writer then puts the difference into
the store in one transaction. What somebody gave a line when adding it stays; only what the parser had read
is read again.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from models.schemas import LogReading, TaskStatus
from services.log_entry import CARRIED, LogEntry, Metrics, clean_metrics, clean_step
from services.parsing import LineParser
from services.pattern_warnings import PatternWatch, without_pattern_warnings
from services.task_state import TaskState, is_of_too_many_names

ChangedLine = tuple[str | None, int | None, str | None, str, int]
"""Metrics as JSON, step and stage, as they are now; task and sequence number."""
Point = tuple[str, str, int, float | None, int | None, float | None, int, float]
"""Task, metric, sequence number, epoch, step, value, attempt, time in seconds since 1970."""

_NONE: Final[Metrics] = {}
_MISSING: Final = float("inf")
"""No stored value: those are finite."""


class Rereading:
    """One pass over the lines of a task, oldest first.

    Holds what has changed, not the lines: about half a kilobyte for each changed line with metrics.

    Args:
        unread: the task as it was before its first line.
        reading: how to read.
        keep: how many of the last lines to hold, as they are now.

    Attributes:
        seq: the last line that has been read.
        parser, watch: as they are after that line, to read on with.
        changed: lines that have other metrics, another step or another stage than before.
        last: the last lines.
    """

    def __init__(self, unread: TaskState, reading: LogReading, *, keep: int) -> None:
        self.task_id = unread.task_id
        self.parser = LineParser(reading.metric_definitions, reading.log_format)
        self.watch = PatternWatch(self.parser)
        self.changed: list[ChangedLine] = []
        self.last: deque[LogEntry] = deque(maxlen=keep)
        self._request = {**unread.request, **reading.model_dump(mode="json", include=set(LogReading.model_fields))}
        self._warnings = [each for each in without_pattern_warnings(unread.warnings) if not is_of_too_many_names(each)]
        self._state = replace(unread, request=self._request, warnings=())
        self._old_stage = unread.stage
        self._attempt = unread.attempt
        self._points: defaultdict[str, list[Point]] = defaultdict(list)
        self._renewed: set[str] = set()

    @property
    def seq(self) -> int:
        return self._state.last_seq

    def read(self, entries: Sequence[LogEntry]) -> None:
        """Go on with the next lines."""
        self._state, again = self._state.after([self._read_again(entry) for entry in entries])
        for old, new in zip(entries, again, strict=True):
            self._compare(old, new)

    def end(self) -> None:
        """The log is over: patterns that have matched nothing until now never will."""
        self._warnings += self.watch.at_the_end()

    def applied_to(self, state: TaskState) -> TaskState:
        """The task as it is, with what its lines say now."""
        said = self._state
        return replace(
            state,
            request=self._request,
            latest_metrics=said.latest_metrics,
            current_epoch=said.current_epoch,
            total_epochs=said.total_epochs,
            progress=100 if state.status is TaskStatus.COMPLETED else said.progress,
            stage=said.stage,
            percents=said.percents,
            warnings=(*self._warnings, *said.warnings),
            revision=state.revision + 1,
        )

    @property
    def renewed(self) -> Mapping[str, Sequence[Point]]:
        """All points of every metric that has changed anywhere; none, where it is not in the log any more."""
        return {name: self._points.get(name, []) for name in sorted(self._renewed)}

    def _read_again(self, old: LogEntry) -> LogEntry:
        """The line as it would be added now, without its change of status."""
        stage_before, self._old_stage = self._old_stage, old.stage or self._old_stage
        if old.attempt > self._attempt:
            self._attempt = old.attempt
            self.parser.begin_again()
        if not old.parsed or old.change is not None:
            is_end = old.change is not None and old.change.status is TaskStatus.COMPLETED
            stage = old.stage if old.stage != stage_before or is_end else None  # else it was the line's before
            again = LogEntry(old.task_id, old.level, old.message, old.metrics, old.step, stage, None, old.timestamp)
            return replace(again, attempt=old.attempt)
        parsed = self.parser.parse(old.message)
        self._warnings += self.watch.after_line()
        return LogEntry(
            old.task_id,
            old.level,
            old.message,
            clean_metrics(parsed.series) or None,
            clean_step(parsed.step),
            parsed.stage,
            None,
            old.timestamp,
            attempt=old.attempt,
            parsed=True,
            percents=parsed.percents,
        )

    def _compare(self, old: LogEntry, new: LogEntry) -> None:
        self.last.append(replace(new, change=old.change) if old.change else new)
        had, has = old.metrics or _NONE, new.metrics or _NONE
        if had != has or old.step != new.step or old.stage != new.stage:
            metrics = json.dumps(has) if has else None
            self.changed.append((metrics, new.step, new.stage, self.task_id, new.seq))
        epoch = has.get("epoch")
        if had != has or old.step != new.step:
            has_moved = (had.get("epoch"), old.step) != (epoch, new.step)
            self._renewed.update(
                name
                for name in had.keys() | has.keys()
                if name not in CARRIED and (has_moved or had.get(name, _MISSING) != has.get(name, _MISSING))
            )
        at = new.timestamp.timestamp() if has else 0.0
        for name, value in has.items():
            if name not in CARRIED:
                self._points[name].append((self.task_id, name, new.seq, epoch, new.step, value, new.attempt, at))
