"""What a text would give, why, and at what price: a pattern is tried before it is used."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from time import perf_counter

from models.schemas import FieldProblem, LogReading, ParsingTryResponse, RuleUse, TriedLine
from services.parsing.line_parser import MAX_LINE, LineParser
from services.parsing.patterns import compile_definitions

MAX_SECONDS = 10.0
"""Whoever tries patterns waits, and so does everybody else who needs a thread of the service."""
NOTHING = "nothing"
"""The rule of lines that say nothing."""


class TrialTooSlow(Exception):
    """The text takes longer than a trial may."""

    problem = FieldProblem(
        field="text",
        code="too_slow",
        message="it takes too long to read: try fewer lines, fewer patterns or simpler ones",
    )


def try_reading(text: str, reading: LogReading) -> ParsingTryResponse:
    """Read the lines of `text` as the log of one task.

    Raises:
        ValueError: the reading cannot be used; `check_reading` says why.
        TrialTooSlow: shorten the text, or use simpler patterns.
    """
    parser = LineParser(reading.metric_definitions, reading.log_format)
    lines = text.split("\n")
    tried, silent = [], []
    seconds: defaultdict[str, float] = defaultdict(float)
    uses: Counter[str] = Counter()
    deadline = perf_counter() + MAX_SECONDS
    for number, line in enumerate(lines, start=1):
        began = _now(deadline)
        parsed = parser.parse(line)
        rule = next((rule for rule in reversed(parsed.rules) if not rule.startswith("own: ")), NOTHING)
        seconds[rule] += perf_counter() - began
        uses.update(parsed.rules or (NOTHING,))
        if parsed.metrics or parsed.stage or parsed.step is not None:
            metrics = {name: value if math.isfinite(value) else None for name, value in parsed.metrics.items()}
            tried.append(
                TriedLine(line=number, metrics=metrics, step=parsed.step, stage=parsed.stage, rules=list(parsed.rules))
            )
        else:
            silent.append(number)
    for pattern in compile_definitions(reading.metric_definitions):
        began = perf_counter()
        for line in lines:
            _now(deadline)
            pattern.read(line[:MAX_LINE])
        seconds[f"own: {pattern.label}"] += perf_counter() - began
    dearest_first = sorted(seconds.items(), key=lambda pair: -pair[1])
    rules = [RuleUse(rule=rule, lines=uses[rule], microseconds=round(1e6 * spent, 1)) for rule, spent in dearest_first]
    return ParsingTryResponse(
        lines=tried, unmatched=silent, unmatched_definitions=list(parser.unmatched()), rules=rules
    )


def _now(deadline: float) -> float:
    """Raises: TrialTooSlow."""
    now = perf_counter()
    if now > deadline:
        raise TrialTooSlow
    return now
