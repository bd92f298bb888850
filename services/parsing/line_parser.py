"""Reads the log of one training, one line at a time.

    what is shown -> own patterns -> presets -> record | table | key-value grammar -> names

The first that can read a line reads it: structured lines and tables say more surely what they hold than
words do. Whatever a line holds, the time is linear in its first `MAX_LINE` characters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from models.schemas import MetricDefinition, Stage
from services.parsing.bars import behind_a_bar
from services.parsing.cleaning import Message, read_message, whole_words
from services.parsing.events import announces_completion, epoch_event, evaluates, phase_announced
from services.parsing.grammar import SUSPECT_WORDS, read_grammar
from services.parsing.memory import Header, LogState, Memory
from services.parsing.names import name_metrics
from services.parsing.patterns import Found, Pattern, compile_definitions
from services.parsing.presets import AUTO, NONE, presets_of
from services.parsing.presets.base import Preset
from services.parsing.records import read_record, record_in
from services.parsing.report import Number, Report
from services.parsing.sentences import read_sentences
from services.parsing.stages import stage_of
from services.parsing.tables import HEADER_WORDS, may_be_header, read_header, read_row
from services.parsing.values import has_digit
from services.parsing.vocabulary import HINTS, VAL

MAX_LINE = 65_536
"""Characters of a line that are read."""

_PLACES = frozenset({"epoch", "total_epochs", "total_steps"})


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """What one line says.

    Attributes:
        metrics: values as printed, NaN and infinities too; with any of them, the epoch they belong to.
        step: as printed, within the epoch or the training.
        stage: a `models.schemas.Stage` value, or None when the line says nothing about it.
        percents: names of the metrics that were printed with a percent sign.
        rules: what has read the line, for a person who asks why.
        rank: the process of a distributed training that has printed it, or None where the line does not say.
    """

    metrics: dict[str, Number]
    step: int | None
    stage: str | None
    percents: frozenset[str] = field(default=frozenset(), compare=False)
    rules: tuple[str, ...] = field(default=(), compare=False)
    rank: int | None = field(default=None, compare=False)

    @property
    def series(self) -> dict[str, Number]:
        """The metrics by the names that a task keeps them under: what other ranks than the first print stands apart."""
        if not self.rank:
            return self.metrics
        return {name if name in _PLACES else f"rank{self.rank}/{name}": value for name, value in self.metrics.items()}


class LineParser:
    """Remembers, for one task, where its training is: most lines do not repeat their epoch.

    One parser serves one task and one thread at a time. `parse` never raises.

    Args:
        definitions: the user's own patterns, which win over everything that is known here.
        log_format: `auto`, `none` for own patterns only, or the name of the one preset to use.
        memory: of an earlier parser of the same log, to read on where that has stopped.

    Raises:
        ValueError: a definition or the format cannot be used; `check_reading` says why.
    """

    def __init__(
        self, definitions: Sequence[MetricDefinition] = (), log_format: str = AUTO, memory: Memory | None = None
    ) -> None:
        self._patterns: tuple[Pattern, ...] = compile_definitions(definitions)
        self._knows_formats = log_format != NONE
        self._presets: tuple[Preset, ...] = presets_of(log_format)
        self.lines = memory.lines if memory else 0
        """How many lines have been read."""
        self._state = memory.state if memory else LogState(unmatched=tuple(range(len(self._patterns))))

    @property
    def memory(self) -> Memory:
        """All that is needed to read on, by another parser with the same definitions."""
        return Memory(self.lines, self._state)

    def begin_again(self) -> None:
        """The training starts anew: what its log has said is no place for the lines to come."""
        self._state = LogState(unmatched=self._state.unmatched)

    def unmatched(self) -> tuple[str, ...]:
        """Labels of the own patterns that have matched no line so far."""
        return tuple(self._patterns[index].label for index in self._state.unmatched if index < len(self._patterns))

    def parse(self, line: str) -> ParsedLine:
        """Metrics, step and stage of `line`."""
        message = read_message(whole_words(line, MAX_LINE))
        self.lines += 1
        own = {index: found for index, pattern in enumerate(self._patterns) if (found := pattern.read(message.shown))}
        report, header = None, self._state.header
        if self._knows_formats and message.has(HINTS):
            report, header = self._read(message)
        elif self._knows_formats and header and has_digit(message.text):
            report = read_row(message.shown, header)
        if report is None and not own:
            return ParsedLine({}, None, None, rank=message.rank)
        return self._conclude(report or Report(), own, header, message.rank)

    def _read(self, message: Message) -> tuple[Report, Header]:
        """What the line says, and the header of the table that goes on below it."""
        behind = behind_a_bar(message.text)
        if behind is not None:
            message = read_message(behind)
        text, header = message.text, self._state.header
        new_header = read_header(message.shown) if message.has(HEADER_WORDS) and may_be_header(text) else None
        if new_header is not None:
            return Report(rules=["table header"]), new_header
        report = self._read_values(message) or Report()
        if message.context != VAL:
            read_sentences(message, report)
        report.context = report.context or (VAL if evaluates(text) else message.context)
        self._read_words(text, report)
        return report, header

    def _read_values(self, message: Message) -> Report | None:
        text = message.text
        for preset in self._presets:
            report = preset.read(text)
            if report is not None:
                report.rules.append(f"preset: {preset.name}")
                return report
        record = record_in(text)
        if record is not None:
            return read_record(*record)
        if not has_digit(text):
            return None
        if self._state.header:
            report = read_row(message.shown, self._state.header)
            if report is not None:
                return report
        return self._planned(read_grammar(text, is_suspect=message.has(SUSPECT_WORDS)))

    def _planned(self, report: Report | None) -> Report | None:
        """A progress bar of nothing but steps is the training's if its total is; anything may draw a bar."""
        if report is None or not report.is_bar_of_steps:
            return report
        return report if report.total_steps is not None and report.total_steps == self._state.planned_steps else None

    def _read_words(self, text: str, report: Report) -> None:
        words = report.message or text
        if "  " in words:
            words = " ".join(words.split())
        if announces_completion(words):
            report.event = None if report.context == VAL else Stage.COMPLETED
        elif report.epoch is not None and report.event is None:
            report.event = epoch_event(words)
            if report.event is not None and report.context == VAL and not report.observations:
                report.epoch = report.total_epochs = report.event = None  # the evaluation counts its own epochs
        elif report.is_empty:
            report.phase = phase_announced(words)
        if report.event or report.phase:
            report.rules.append("words")

    def _conclude(self, report: Report, own: Mapping[int, Found], header: Header, rank: int | None) -> ParsedLine:
        """What the line gives, after the lines before it; from here on the state is that after it."""
        before = self._state
        report.drop_what_counts_nothing()
        _settle(report, before)
        named, percents = name_metrics(report, before)
        if _counts_epochs_as_steps(report, named, before):
            report.epoch, report.step = report.step, None
        for found in own.values():
            report.place(found.places)
            named |= found.metrics
            percents |= found.percents
        after = before.after(report, named, header, own.keys())
        if report.is_bar:
            stale = dict(after.stale_values)
            named = {name: value for name, value in named.items() if stale.get(name) != value}
        stage = None
        if not report.says_nothing:  # an own pattern alone does not tell what its line belongs to
            stage = stage_of(
                report, named, is_completed=before.is_completed, is_new_epoch=report.epoch not in (None, before.epoch)
            )
        self._state = after.at(stage)
        metrics = {**_place(report, named, after), **named}
        rules = [f"own: {found.label}" for found in own.values()] + report.rules
        return ParsedLine(metrics, report.step, stage, percents and percents & metrics.keys(), tuple(rules), rank)


def _settle(report: Report, before: LogState) -> None:
    """Decide what only the lines before it can tell: whose summary it is, what its count counts, what is a setting."""
    if before.is_closed and report.opens_with_count and report.epoch is None:
        report.context = report.context or VAL  # a second summary of one epoch
    if report.total_steps is not None and (report.step, report.total_steps) == (before.epoch, before.total_epochs):
        report.step = report.total_steps = None  # it counts the epochs once more
    if report.is_setting and before.epoch is None and before.step is None:
        report.observations.clear()


def _counts_epochs_as_steps(report: Report, named: Collection[str], before: LogState) -> bool:
    """Whether a record of a validation counts epochs where those of the training count steps."""
    return (
        report.is_record
        and report.epoch is None
        and report.step == before.epoch != before.step
        and bool(named)
        and not any(name.startswith("train_") for name in named)
    )


def _place(report: Report, named: dict[str, Number], state: LogState) -> dict[str, Number]:
    """Where the training is, as a line with metrics says it."""
    place: dict[str, Number] = {}
    if named or report.has_counter:
        if state.epoch is not None:
            place["epoch"] = state.epoch
        if state.total_epochs is not None:
            place["total_epochs"] = state.total_epochs
    if report.total_epochs is not None:
        place["total_epochs"] = report.total_epochs
    if report.total_steps is not None:
        place["total_steps"] = report.total_steps
    if report.best_epoch is not None:
        place["best_epoch"] = report.best_epoch
    if report.samples is not None:
        place["samples_seen"], place["total_samples"] = report.samples
    return place
