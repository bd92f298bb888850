"""What a parser remembers of the lines it has read: enough to read on, after a restart too."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from models.schemas import Stage
from services.parsing.report import Number, Report
from services.parsing.vocabulary import OF_NO_SET, TEST, TRAIN, VAL

Header = tuple[tuple[str, int, int], ...]


class LogState(NamedTuple):
    """What the lines so far have said.

    Attributes:
        epoch, total_epochs, step, stage: as the log has last said.
        is_announced: the phase was said in words.
        phase: `val` between the words that announce a validation and the next training line.
        is_closed: the epoch has been summed up; a summary without a new epoch is an evaluation.
        is_completed: the training has said that it is complete.
        has_val: the log has a validation, so that its test set is something else.
        planned_steps: of the whole training, as announced.
        header: columns of the table whose rows are being read.
        bar_epoch, bar_values, stale_values: what a progress bar last showed, and showed in the epoch before.
        unmatched: numbers of the user's own definitions that have matched no line.
    """

    epoch: Number | None = None
    total_epochs: int | None = None
    step: int | None = None
    stage: str | None = None
    phase: str | None = None
    is_announced: bool = False
    is_closed: bool = False
    is_completed: bool = False
    has_val: bool = False
    planned_steps: int | None = None
    header: Header = ()
    bar_epoch: Number | None = None
    bar_values: tuple[tuple[str, Number], ...] = ()
    stale_values: tuple[tuple[str, Number], ...] = ()
    unmatched: tuple[int, ...] = ()

    def after(self, report: Report, named: Mapping[str, Number], header: Header, matched: Collection[int]) -> LogState:
        """This state and one more line."""
        changes: dict[str, Any] = {}
        if header is not self.header:
            changes["header"] = header
        if matched and self.unmatched:
            changes["unmatched"] = tuple(index for index in self.unmatched if index not in matched)
        if report.says_nothing:
            return self._replace(**changes) if changes else self
        if report.epoch is not None:
            changes |= {"epoch": report.epoch, "is_closed": self.is_closed and report.epoch == self.epoch}
        if report.total_epochs is not None:
            changes["total_epochs"] = report.total_epochs
        if report.step is not None:
            changes["step"] = report.step
        elif report.total_steps is not None:
            changes["planned_steps"] = report.total_steps
        if report.opens_with_count and report.step == report.total_steps and named:
            changes["is_closed"] = True
        if report.event is Stage.COMPLETED:
            changes["is_completed"] = True
        elif report.event is Stage.EPOCH_START:
            changes["is_completed"] = False
        if any(each.meaning.context == VAL for each in report.observations):
            changes["has_val"] = True
        changes["phase"] = self._phase_after(report)
        changes["is_announced"] = changes["phase"] is not None and (self.is_announced or report.phase is not None)
        if report.is_bar and report.epoch is not None:
            changes |= self._bar_after(report.epoch, named)
        changes = {name: value for name, value in changes.items() if getattr(self, name) != value}
        return self._replace(**changes) if changes else self

    def at(self, stage: str | None) -> LogState:
        return self if stage is None or stage == self.stage else self._replace(stage=stage)

    def _phase_after(self, report: Report) -> str | None:
        if report.phase is not None:
            return report.phase if report.phase == VAL else None
        if report.context in (VAL, TEST):
            is_progress = report.total_steps is not None and not report.holds(TRAIN)
            return VAL if is_progress else self.phase
        goes_on = report.epoch is None or self.is_bar_of_validation(report)
        return self.phase if goes_on and report.context != TRAIN else None

    def is_bar_of_validation(self, report: Report) -> bool:
        """A bar that names the same epoch once more, after words that a validation begins."""
        return self.phase == VAL and self.is_announced and report.is_bar and report.epoch == self.epoch

    def _bar_after(self, epoch: Number, named: Mapping[str, Number]) -> dict[str, Any]:
        """What a bar shows at first in a new epoch, it has carried over from the one before."""
        shown = tuple(
            (name, value)
            for name, value in named.items()
            if name not in OF_NO_SET and not name.endswith("_step") and math.isfinite(value)
        )
        carried = self.stale_values if self.bar_epoch in (None, epoch) else self.bar_values
        stale = tuple(pair for pair in carried if pair in shown)
        return {"bar_epoch": epoch, "bar_values": shown, "stale_values": stale}

    def to_json(self) -> dict[str, Any]:
        new = LogState()
        return {name: value for name, value, unset in zip(self._fields, self, new, strict=True) if value != unset}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        return cls(**{name: _to_tuple(value) for name, value in stored.items() if name in cls._fields})


@dataclass(frozen=True, slots=True)
class Memory:
    """A moment of a log: replaced, never changed, so that keeping one costs a reference.

    Attributes:
        lines: how many have been read.
        state: what they said.
    """

    lines: int = 0
    state: LogState = LogState()  # noqa: RUF009 - a tuple

    def to_json(self) -> dict[str, Any]:
        """What differs from a new memory, as JSON holds it."""
        return {"lines": self.lines, **self.state.to_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The memory that `to_json` was called on. Fields of another release are left out."""
        return cls(int(stored.get("lines", 0)), LogState.from_json(stored))


def _to_tuple(value: Any) -> Any:
    return tuple(_to_tuple(each) for each in value) if isinstance(value, list) else value
