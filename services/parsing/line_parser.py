"""Reads the native log formats, one line at a time.

A message is a row of items: a counter (`Epoch [3/10]`, `Step [40/180]`), a keyed value
(`Train Loss: 0.5`), a rate (`312.4 images/s`) or the end of the training. It must begin with one: that is
what tells the trainer's own report from a sentence or a configuration dump that happens to hold the
same words. After that, a field with nothing known in it is stepped over.

Every attempt at an item looks at a bounded number of characters and the position only moves forward,
so the time is linear in the line whatever it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from models.schemas import Stage
from services.parsing.cleaning import message_of
from services.parsing.values import NUMBER, read_duration, read_number, read_top_k
from services.parsing.vocabulary import (
    ENDINGS,
    EPOCH_EVENTS,
    PHRASES,
    RATE_UNITS,
    STAGE_PRECEDENCE,
    SYNONYMS,
    Meaning,
    ValueKind,
)

_COUNTER = re.compile(
    r"(?:(?P<epoch>epoch)|step) ?:? ?[\[(]? ?([0-9]{1,9}) ?/ ?([0-9]{1,9})(?!\w|[./:][0-9])(?: ?[\])])?", re.IGNORECASE
)
_EVENT = re.compile(r"[ :,-]{0,3}([a-z]{1,20})(?!\w)", re.IGNORECASE)
_KEY = re.compile(r"([a-z][a-z0-9_ -]{0,60}?) ?: ?", re.IGNORECASE)
_RATE = re.compile(  # not the tail of .5, -5 or 1,312
    rf"(?<![\w.+-])(?<![0-9],)({NUMBER}) ?(?:{'|'.join(map(re.escape, RATE_UNITS))})(?!\w)", re.IGNORECASE
)
_ENDING = re.compile(rf"(?:{'|'.join(ENDINGS)})(?= ?[^\w ]| (?:in|after)(?!\w)|$)", re.IGNORECASE)
_WORD = re.compile(r"\w")
_NEXT_FIELD = re.compile(r"[,;|]| - ")


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """What one line says.

    `metrics` may hold NaN and infinities, as printed. `step` counts within the epoch, as printed. `stage` is
    a `models.schemas.Stage` value, or None when this line says nothing about it.
    """

    metrics: dict[str, int | float]
    step: int | None
    stage: str | None


class LineParser:
    """Remembers, for one task, where its training is: most lines do not repeat their epoch.

    One parser serves one task and one thread at a time. `parse` never raises.
    """

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.total_epochs: int | None = None
        self.stage: str | None = None

    def parse(self, line: str) -> ParsedLine:
        """Metrics, step and stage of `line`; a line with metrics also carries the epoch it belongs to."""
        report = _read(message_of(line))
        if report.epoch is not None:
            self.epoch, self.total_epochs = report.epoch
        stage = report.stage()
        if stage is not None:
            self.stage = stage
        metrics: dict[str, int | float] = {}
        if report.epoch is not None or report.metrics:
            if self.epoch is not None and self.total_epochs is not None:
                metrics = {"epoch": self.epoch, "total_epochs": self.total_epochs}
            metrics |= report.metrics
        return ParsedLine(metrics, report.step, stage)


@dataclass(slots=True)
class _Report:
    """What has been read of a message so far."""

    metrics: dict[str, int | float] = field(default_factory=dict)
    epoch: tuple[int, int] | None = None
    step: int | None = None
    event: Stage | None = None
    """What the line announces; decides over the stages of the metrics it holds."""
    stages: set[Stage | None] = field(default_factory=set)

    def stage(self) -> Stage | None:
        return self.event or next((stage for stage in STAGE_PRECEDENCE if stage in self.stages), None)

    def add(self, meaning: Meaning, value: float) -> None:
        """Of a metric that a line prints twice, the first value stands."""
        for name in meaning.names:
            self.metrics.setdefault(name, value)
        self.stages.add(meaning.stage)


def _read(message: str) -> _Report:
    report = _Report()
    position = 0
    while True:
        end = _read_item(message, position, report)
        if end is None:
            if position == 0:
                return report
            separator = _NEXT_FIELD.search(message, position)
            if separator is None:
                return report
            end = separator.end()
        word = _WORD.search(message, end)
        if word is None:
            return report
        position = word.start()


def _read_item(message: str, position: int, report: _Report) -> int | None:
    """Add the item at `position` to `report` and return where it ends, or None where there is none."""
    counter = _COUNTER.match(message, position)
    if counter is not None:
        return _read_counter(message, counter, report)
    ending = _ENDING.match(message, position)
    if ending is not None:
        report.event = Stage.COMPLETED
        return ending.end()
    rate = _RATE.match(message, position)
    if rate is not None:
        report.metrics.setdefault("throughput", float(rate[1]))
        return rate.end()
    return _read_keyed(message, position, report)


def _read_counter(message: str, counter: re.Match[str], report: _Report) -> int:
    count, total = int(counter[2]), int(counter[3])
    end = counter.end()
    if counter["epoch"] is None:
        report.step = count
        report.metrics["total_steps"] = total
        report.stages.add(Stage.TRAINING)
        return end
    report.epoch = (count, total)
    event = _EVENT.match(message, end)
    if event is not None and event[1].lower() in EPOCH_EVENTS:
        report.event = EPOCH_EVENTS[event[1].lower()]
        return event.end()
    if counter.start() == 0 and _WORD.search(message, end) is None:
        report.event = Stage.EPOCH_START
    return end


def _read_keyed(message: str, position: int, report: _Report) -> int | None:
    """A known key is an item even where its value cannot be read: the rest of the line still can."""
    key = _KEY.match(message, position)
    if key is None:
        return None
    meaning = PHRASES.get(_canonical(key[1]))
    if meaning is None:
        return None
    if meaning.kind is ValueKind.TOP_K:
        return _read_top_k(message, key.end(), meaning, report)
    read_value = read_duration if meaning.kind is ValueKind.DURATION else read_number
    found = read_value(message, key.end())
    if found is None:
        return key.end()
    value, end = found
    report.add(meaning, value)
    return end


def _read_top_k(message: str, position: int, meaning: Meaning, report: _Report) -> int:
    found = read_top_k(message, position)
    if found is None:
        return position
    accuracies, end = found
    for k, accuracy in accuracies.items():
        report.add(replace(meaning, names=tuple(name.format(k=k) for name in meaning.names)), accuracy)
    return end


def _canonical(key: str) -> str:
    words = key.lower().replace("_", " ").replace("-", " ").split()
    return " ".join(SYNONYMS.get(word, word) for word in words)
