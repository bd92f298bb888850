"""When a rule fires: a pure step from what was known of a task, over one line of its log.

Every condition is edge-triggered: it fires when it becomes true, and again only after it has been false. What is known
is a dict of plain JSON, which is stored with the cursor, so that a restart goes on where it was.

Rules over epochs take the last value of each, once the next epoch begins or the task ends. What a later attempt
trains again is not counted again.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import re2

from models.alerts import RuleRequest
from services.history.goals import goal_of
from services.log_entry import CARRIED, LogEntry

State = dict[str, Any]

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_SHOWN = 300
_MAX_PROGRAM = 3000
_MAX_NAMES = 100


def advance(rule: RuleRequest, state: State, line: LogEntry) -> str | None:
    """Take in one line; changes `state`. Returns what to say if the rule fires."""
    match rule.kind:
        case "status":
            return _status(rule, line)
        case "pattern":
            return _pattern(rule, state, line)
        case "not_finite":
            return _not_finite(rule, state, line)
        case "threshold" if rule.for_epochs is None:
            return _threshold(rule, state, line)
        case "threshold" | "no_improvement":
            return _epochs(rule, state, line)
        case _:
            return None


def compile_pattern(pattern: str) -> Any:
    """Raises: ValueError: RE2 does not take it, or it is too large to look at every line."""
    options = re2.Options()
    options.max_mem = 8 << 20
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError("RE2 does not take this pattern") from error
    if compiled.programsize > _MAX_PROGRAM:
        raise ValueError("the pattern is too large to look at every line: repeat less")
    return compiled


_compiled = lru_cache(256)(compile_pattern)


def _status(rule: RuleRequest, line: LogEntry) -> str | None:
    change = line.change
    if change is None or change.status not in (rule.statuses or ()):
        return None
    if rule.reasons and change.reason not in rule.reasons:
        return None
    return f"The task is {change.status.value} ({change.reason})"


def _pattern(rule: RuleRequest, state: State, line: LogEntry) -> str | None:
    """Once an attempt: a flood of lines that match must not become a flood of mails."""
    if state.get("attempt") == line.attempt:
        return None
    message = line.message if line.message.isascii() else line.message.encode(errors="replace").decode()
    if _compiled(rule.pattern or "").search(message) is None:
        return None
    state["attempt"] = line.attempt
    return f"The log says: {line.message[:_SHOWN]}"


def _not_finite(rule: RuleRequest, state: State, line: LogEntry) -> str | None:
    was: list[str] = state.get("not_finite", [])
    now = list(was)
    for name, value in (line.metrics or {}).items():
        if name in CARRIED or (rule.metric is not None and name != rule.metric):
            continue
        if value is not None and name in now:
            now.remove(name)
        elif value is None and name not in now and len(now) < _MAX_NAMES:
            now.append(name)
    if now != was:
        state["not_finite"] = now
    return f"{', '.join(now)} is not a finite number" if now and not was else None


def _threshold(rule: RuleRequest, state: State, line: LogEntry) -> str | None:
    value = (line.metrics or {}).get(rule.metric or "")
    if value is None:
        return None
    is_true = _holds(rule, value)
    was_true, state["true"] = state.get("true", False), is_true
    return f"{rule.metric} is {value:g}, {rule.op} {rule.value:g}" if is_true and not was_true else None


def _holds(rule: RuleRequest, value: float) -> bool:
    assert rule.op is not None
    assert rule.value is not None
    return _COMPARE[rule.op](value, rule.value)


def _epochs(rule: RuleRequest, state: State, line: LogEntry) -> str | None:
    fired = None
    metrics = line.metrics or {}
    epoch = metrics.get("epoch")
    if epoch is not None:
        number = math.ceil(epoch)
        if number > state.get("epoch", number):
            fired = _end_epoch(rule, state)
        elif number < state.get("epoch", number):
            state.pop("value", None)  # of an epoch that is trained again
        state["epoch"] = number
    value = metrics.get(rule.metric or "")
    if value is not None and "epoch" in state:
        state["value"] = value
    if line.is_last:
        fired = _end_epoch(rule, state) or fired
    return fired


def _end_epoch(rule: RuleRequest, state: State) -> str | None:
    value, epoch = state.pop("value", None), state.get("epoch")
    if value is None or epoch is None or epoch <= state.get("done", -1):
        return None
    state["done"] = epoch
    if rule.kind == "threshold":
        state["count"] = state.get("count", 0) + 1 if _holds(rule, value) else 0
        if state["count"] != rule.for_epochs:
            return None
        return f"{rule.metric} was {rule.op} {rule.value:g} for {rule.for_epochs} epochs, at last {value:g}"
    goal = rule.goal or goal_of(rule.metric or "") or "min"
    gain = math.inf if "best" not in state else (state["best"] - value) * (1 if goal == "min" else -1)
    if gain > rule.min_delta:
        state["best"], state["count"] = value, 0
        return None
    state["count"] += 1
    if state["count"] != rule.epochs:
        return None
    return f"{rule.metric} has not improved on {state['best']:g} for {rule.epochs} epochs"
