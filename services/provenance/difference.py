"""In what two records differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_APART = frozenset({"task_id", "attempt", "recorded_at", "request.task_id", "problems"})
"""Different for every task."""


def differences(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fields that are not the same in all records, by their path, with the value of each that has the field.

    Args:
        records: by the ids of their tasks.
    """
    flat = {task_id: dict(_flat(record)) for task_id, record in records.items()}
    found = {}
    for path in dict.fromkeys(path for each in flat.values() for path in each):
        values = {task_id: each[path] for task_id, each in flat.items() if path in each}
        if len(values) < len(flat) or len({repr(value) for value in values.values()}) > 1:
            found[path] = values
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        path = f"{prefix}{name}"
        if path in _APART:
            continue
        if path == "code.diff":
            yield path, _summary(each)
        elif isinstance(each, Mapping) and each:
            yield from _flat(each, f"{path}.")
        elif isinstance(each, Sequence) and not isinstance(each, str) and each and isinstance(each[0], Mapping):
            for number, part in enumerate(each):
                yield from _flat(part, f"{path}.{number}.")
        else:
            yield path, each


def _summary(diff: str) -> str:
    """A difference of differences helps nobody: whether they are the same, and how long they are."""
    if not diff:
        return "none"
    return f"{diff.count(chr(10))} lines, sha256 {hashlib.sha256(diff.encode()).hexdigest()[:12]}"
