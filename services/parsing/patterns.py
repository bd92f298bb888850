"""The user's own patterns, in RE2: whatever the pattern and the line, the time is linear in the line.

Python's own `re` can be stopped by nothing once it backtracks, and holds every thread of the process meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import re2

from models.schemas import FieldProblem, MetricDefinition
from services.parsing.report import Number, is_count
from services.parsing.values import read_number

MAX_MATCHES = 100
"""Of one pattern in one line: a pattern with a name group can find several metrics."""
_MAX_MEMORY = 8 << 20
"""Bytes. With too few of them RE2 gives up its fast automaton, and takes thirty times as long."""
_MAX_PROGRAM = 3000
"""Instructions. The slow one takes time in proportion to them: half a microsecond a character with 1400 (measured)."""
_PLAIN = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,300})?")
"""Most numbers; the others are looked at more closely."""
_PLACES = frozenset({"epoch", "total_epochs", "step", "total_steps"})


@dataclass(slots=True)
class Found:
    """What one pattern has found in a line."""

    label: str
    metrics: dict[str, Number] = field(default_factory=dict)
    percents: set[str] = field(default_factory=set)
    places: dict[str, Number] = field(default_factory=dict)
    """`epoch`, `total_epochs`, `step`, `total_steps`."""


class Pattern:
    """One compiled definition.

    Raises:
        ValueError: the definition cannot be used, with what to do.
    """

    def __init__(self, definition: MetricDefinition) -> None:
        self._name = definition.name
        options = re2.Options()
        options.max_mem = _MAX_MEMORY
        options.log_errors = False
        try:
            self._regex = re2.compile(definition.regex, options)
        except re2.error as error:
            why = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
            raise ValueError(f"RE2 does not take it ({why})") from error
        if self._regex.programsize > _MAX_PROGRAM:
            raise ValueError("it is too large to look at every line: repeat less, or without a limit, as in .* or a+")
        self._names = {index: name for name, index in self._regex.groupindex.items()}
        groups: int = self._regex.groups
        if groups == 0:
            raise ValueError("it has no group: put parentheses around the number, as in Dice: ([0-9.]+)")
        if not self._names and groups > 2:
            raise ValueError(f"it has {groups} groups without names: use one, two (name and value), or name them")
        if not self._names and groups == 1 and not self._name:
            raise ValueError("one group is the value: give the definition a name")
        self._is_pair = not self._names and groups == 2
        self.label = definition.name or definition.regex

    def read(self, text: str) -> Found | None:
        """What the pattern finds in `text`, or None where it does not match or what it found is no number."""
        found = Found(self.label)
        if not text.isascii():
            text = text.encode(errors="replace").decode()  # RE2 reads UTF-8, which has no lone surrogates
        for match in islice(self._regex.finditer(text), MAX_MATCHES):
            if self._names:
                for index, name in self._names.items():
                    _add(found, name, match.group(index))
            elif self._is_pair:
                _add(found, (match.group(1) or "").strip(), match.group(2))
            else:
                _add(found, self._name or "", match.group(1))
        return found if found.metrics or found.places else None


def _add(found: Found, name: str, text: str | None) -> None:
    """Of a metric that a line holds twice, the last value stands: a log goes forward."""
    if not name or text is None:
        return
    text = text.strip()
    plain = text.rstrip("%")
    value = float(plain) if _PLAIN.fullmatch(plain) else read_number(plain)
    if value is None:
        return
    if name in _PLACES:
        if is_count(value) and (value.is_integer() or name == "epoch"):
            found.places[name] = int(value) if value.is_integer() else value
        return
    found.metrics[name] = value
    if plain != text:
        found.percents.add(name)


def compile_definitions(definitions: Sequence[MetricDefinition]) -> tuple[Pattern, ...]:
    """Raises: ValueError: one of them cannot be used."""
    return tuple(Pattern(definition) for definition in definitions)


def definition_problems(definitions: Sequence[MetricDefinition]) -> list[FieldProblem]:
    """What is wrong with each definition that cannot be used."""
    problems = []
    for index, definition in enumerate(definitions):
        try:
            Pattern(definition)
        except ValueError as error:
            called = f" ({definition.name})" if definition.name else ""
            problems.append(
                FieldProblem(
                    field=f"metric_definitions.{index}.regex",
                    code="invalid_pattern",
                    message=f"Pattern {index}{called}: {error}.",
                )
            )
    return problems
