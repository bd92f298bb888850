"""Whether a log can be read as a request asks, before a training waits for it."""

from __future__ import annotations

from difflib import get_close_matches

from models.schemas import FieldProblem, LogReading
from services.parsing.patterns import definition_problems
from services.parsing.presets import AUTO, NONE, PRESETS

FORMATS = (AUTO, NONE, *PRESETS)
"""What `log_format` may be."""


def check_reading(reading: LogReading) -> list[FieldProblem]:
    """What is wrong with the definitions and the format, each with what to do; empty is good."""
    problems = definition_problems(reading.metric_definitions)
    if reading.log_format not in FORMATS:
        near = get_close_matches(reading.log_format, FORMATS, n=1)
        advice = f"did you mean {near[0]}?" if near else f"use one of {', '.join(FORMATS)}."
        message = f"There is no log format {reading.log_format!r}: {advice}"
        problems.append(FieldProblem(field="log_format", code="unknown_log_format", message=message))
    return problems
