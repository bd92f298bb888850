"""Lines that are one structured record: JSON, a Python dictionary, logfmt.

Their keys are the trainer's own names for what it measures, so one that is unknown is kept, in snake case.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from models.schemas import Stage
from services.parsing.meaning import Meaning, context_of, meaning_of, statistics_of
from services.parsing.report import Report
from services.parsing.values import Kind, read_number, values_of
from services.parsing.vocabulary import SETTINGS

MAX_RECORD = 20_000
"""Characters of a record. Longer ones are dumps."""
_MAX_DEPTH = 4
_BRACES = re.compile(r"\{.*\}")
_NUMPY = re.compile(r"\b(?:np|numpy|torch)?\.?(?:float(?:16|32|64)|int(?:32|64)|tensor)\(([^()]*)\)")
_NOT_FINITE = re.compile(r"(?<=[:, ])-?\b(?:nan|inf)\b")
_LOGFMT = re.compile(r'([A-Za-z_][\w./@-]{0,100})=("(?:[^"\\]|\\.){0,2000}"|[^\s"]{0,200})(?:\s+|$)')
_SNAKE = re.compile(r"\W+")
_PLACE = re.compile(r"\b(epoch|step|iter(?:ation)?)\W{0,3}([0-9]{1,12})(?: ?/ ?([0-9]{1,12}))?(?![\w.])", re.IGNORECASE)
"""Where a record is, said in front of it: `epoch 0: {'accuracy': 0.75}`."""
_SPLITS = frozenset({"_type", "type", "split", "phase", "mode", "stage", "subset"})
_MESSAGES = frozenset({"event", "msg", "message"})
_UNKNOWN = frozenset({"", "ts", "time", "timestamp", "level", "seed", "pid", "rank"})


def record_in(text: str) -> tuple[str, Mapping[str, Any], str] | None:
    """The rule, the record that `text` ends with, and the label before it; None where there is none."""
    if text.endswith(("}", "}.")):
        match = _BRACES.search(text) if len(text) <= MAX_RECORD else None
        return None if match is None else _read_braces(text[: match.start()], match[0])
    return _read_logfmt(text)


def _read_braces(label: str, braces: str) -> tuple[str, Mapping[str, Any], str] | None:
    try:
        record = json.loads(braces)
        rule = "json"
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(_NOT_FINITE.sub(r"'\g<0>'", _NUMPY.sub(r"\1", braces)))
            rule = "dict"
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    return (rule, record, label) if isinstance(record, dict) else None


def _read_logfmt(text: str) -> tuple[str, Mapping[str, Any], str] | None:
    if "=" not in text or not text[:1].isalpha():
        return None
    record: dict[str, Any] = {}
    position = 0
    while match := _LOGFMT.match(text, position):
        if match[2].endswith((",", ";")) or ("=" in match[2] and match[2][0] != '"'):
            return None
        record[match[1]] = match[2].strip('"')
        position = match.end()
    return ("logfmt", record, "") if position == len(text) and len(record) > 1 else None


def read_record(rule: str, record: Mapping[str, Any], label: str) -> Report | None:
    """The report of a record, or None where it is a configuration."""
    items = list(_flatten(record))
    if sum(_own_name(name) in SETTINGS for name, _ in items) > 1:
        return None
    report = Report(is_record=True, context=context_of(label.strip(" :-")), rules=[rule])
    statistics = statistics_of(label)
    place = _PLACE.search(label)
    if place is not None and place[1].lower() == "epoch":
        report.epoch, report.total_epochs = int(place[2]), int(place[3]) if place[3] else None
    elif place is not None:
        report.step, report.total_steps = int(place[2]), int(place[3]) if place[3] else None
    for name, value in items:
        if isinstance(value, str) and name.lower() in _MESSAGES:
            report.message = value
        _read_item(report, name, value, statistics)
    if report.message and report.epoch is not None and not report.observations:
        report.event = Stage.EPOCH_START if "start" in report.message or "begin" in report.message else None
    measured = any(each.meaning.metric not in (None, "lr") for each in report.observations)
    return report if measured or report.message or (report.has_counter and len(items) > 1) else None


def _flatten(record: Mapping[str, Any], space: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        name = f"{space}/{key}" if space else str(key)
        if isinstance(value, dict) and depth < _MAX_DEPTH:
            yield from _flatten(value, name, depth + 1)
        else:
            yield name, value


def _own_name(name: str) -> str:
    return _SNAKE.sub("_", name).strip("_").lower()[:100]


def _read_item(report: Report, name: str, value: Any, statistics: frozenset[str]) -> None:
    meaning = meaning_of(name)
    if isinstance(value, str) and name.lower() in _SPLITS:
        report.context = context_of(value) or report.context
    if meaning is not None and isinstance(value, str) and len(value) <= 40 and _read_written(report, meaning, value):
        return
    number, is_percent = _number(value)
    if number is None:
        return
    is_whole = isinstance(number, int)
    if meaning is None:
        own = _own_name(name)
        if own not in _UNKNOWN and own not in SETTINGS:
            report.observe(Meaning(None), number, name=own)
    elif meaning.metric == "epoch" and "best" not in meaning.statistics:
        report.epoch = number if report.epoch is None else report.epoch
    elif meaning.metric == "step":
        if is_whole:
            report.step = int(number)
    elif meaning.metric in ("total_epochs", "total_steps"):
        if is_whole:
            setattr(report, meaning.metric, int(number))
    elif meaning.metric == "epoch":
        report.best_epoch = number
    elif meaning.metric is not None:
        meaning = replace(meaning, statistics=meaning.statistics | statistics)
        report.observe(meaning, float(number), is_percent=is_percent)


def _read_written(report: Report, meaning: Meaning, text: str) -> bool:
    """A value that is written as a line would write it: `"epoch": "1/196"`, `"eta": "1:02:03"`, `"mem": "5.4G"`."""
    values, rest = values_of(text)
    if len(values) != 1 or values[0].gap.strip() or rest.strip():
        return False
    value = values[0]
    if value.kind is Kind.COUNT and meaning.metric == "epoch":
        report.epoch, report.total_epochs = int(value.number), int(value.total or 0)
    elif value.kind is Kind.COUNT and meaning.metric == "step":
        report.step, report.total_steps = int(value.number), int(value.total or 0)
    elif (value.kind is Kind.CLOCK and meaning.metric == "eta") or (value.unit and meaning.metric == "gpu_memory"):
        report.observe(meaning, value.number)
    else:
        return False
    return True


def _number(value: Any) -> tuple[int | float | None, bool]:
    if isinstance(value, bool):
        return None, False
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float):
        is_too_large = isinstance(value, int) and abs(value) > sys.float_info.max
        return None if is_too_large else value, False
    if isinstance(value, str) and len(value) <= 40:
        text = value.strip()
        is_percent = text.endswith("%")
        number = read_number(text.rstrip("%"))
        if number is not None and text.lstrip("+-").isdecimal():
            return int(number), False
        return number, is_percent
    return None, False
