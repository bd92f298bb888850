"""What one line says, before it is decided what that is called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.schemas import Stage
from services.parsing.meaning import Meaning

Number = int | float

MAX_COUNT = 10**15
"""No training has more epochs or steps; the store could not hold many more."""
_COUNTERS = ("epoch", "total_epochs", "step", "total_steps", "best_epoch")


def is_count(number: Number) -> bool:
    return math.isfinite(number) and 0 <= number <= MAX_COUNT


@dataclass(slots=True)
class Observation:
    """One measured value.

    Attributes:
        meaning: what it is; its context is None where the line does not say.
        average: the number in parentheses behind the value.
        name: the key itself, for what the vocabulary does not know; `meaning` then holds no metric.
    """

    meaning: Meaning
    value: Number
    average: Number | None = None
    name: str | None = None
    is_percent: bool = False


@dataclass(slots=True)
class Report:
    """The observations and counters of one line, and what it announces.

    Attributes:
        event: the stage that the line announces in words.
        phase: `train` or `val`, where the line says what is reported from here on.
        is_averaged: the numbers in parentheses are those that count.
        opens_with_count: the line begins with its step, as summaries and bars do: `16/16 - 1s - loss: 0.5`.
        message: of a record, the words that it holds.
        samples: the counter of a step counts images: `(seen, total)`.
        rules: names of what has read the line.
    """

    observations: list[Observation] = field(default_factory=list)
    epoch: Number | None = None
    total_epochs: int | None = None
    step: int | None = None
    total_steps: int | None = None
    samples: tuple[int, int] | None = None
    best_epoch: Number | None = None
    context: str | None = None
    event: Stage | None = None
    phase: str | None = None
    is_averaged: bool = False
    is_bar: bool = False
    is_record: bool = False
    opens_with_count: bool = False
    message: str | None = None
    rules: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.observations and not self.has_counter

    @property
    def says_nothing(self) -> bool:
        announces = (self.event, self.phase, self.total_epochs, self.total_steps, self.best_epoch)
        return self.is_empty and all(each is None for each in announces)

    @property
    def has_counter(self) -> bool:
        return self.epoch is not None or self.step is not None or self.samples is not None

    def observe(self, meaning: Meaning, value: Number, *, name: str | None = None, is_percent: bool = False) -> None:
        self.observations.append(Observation(meaning, value, name=name, is_percent=is_percent))

    @property
    def is_bar_of_steps(self) -> bool:
        """A progress bar that shows no epoch, and of values nothing but its own speed."""
        is_own_speed = all(each.meaning.metric in ("eta", "throughput") for each in self.observations)
        return self.is_bar and self.epoch is None and is_own_speed

    @property
    def is_setting(self) -> bool:
        """A learning rate alone: in front of a training, it is a setting."""
        return not self.has_counter and {each.meaning.metric for each in self.observations} == {"lr"}

    def drop_what_counts_nothing(self) -> None:
        """Counters that are NaN, negative or out of all bounds."""
        for name in _COUNTERS:
            number = getattr(self, name)
            if number is not None and not is_count(number):
                setattr(self, name, None)

    def holds(self, context: str) -> bool:
        return any(each.meaning.context == context for each in self.observations)

    def place(self, places: Mapping[str, Number]) -> None:
        """Take the counters that the user's own patterns have found; they win."""
        self.epoch = places.get("epoch", self.epoch)
        for name in ("total_epochs", "step", "total_steps"):
            if name in places:
                setattr(self, name, int(places[name]))
