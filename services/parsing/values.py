"""The values that follow a key: numbers, durations, top-k tables.

A wrong number is worse than none. A number must therefore be the whole word: `1.2.3`, `0.52abc`,
`1,234` and `3/10` hold none, and neither does one with more digits than a double can need.
"""

from __future__ import annotations

import re

NUMBER = (
    r"(?:[+-]?(?:[0-9]{1,320}(?:\.[0-9]{0,320})?|\.[0-9]{1,320})(?:e[+-]?[0-9]{1,5})?|[+-]?(?:inf(?:inity)?|nan))"
    r"(?!\w|\.\w|[,:/-][0-9])"
)
"""A decimal, scientific or non-finite number. Needs re.IGNORECASE."""

_NUMBER = re.compile(rf"({NUMBER})%?", re.IGNORECASE)
_CLOCK = re.compile(r"(?:([0-9]{1,5}) days?,? )?([0-9]{1,5}):([0-9]{2}):([0-9]{2}(?:\.[0-9]{1,9})?)(?![\w:])")
_UNITS = re.compile(
    r"(?:([0-9]{1,5}) ?d ?)?(?:([0-9]{1,5}) ?h ?)?(?:([0-9]{1,5}) ?m(?:in)? ?)?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?) ?s(?:ec)?)?(?!\w| ?[0-9])",
    re.IGNORECASE,
)
_SECONDS = (86_400, 3_600, 60, 1)

_TABLE = re.compile(r"\{([^{}]{1,2000})\}")
_TOP_K = re.compile(
    rf"(?<!\w)['\"]?top[-_ ]?([0-9]{{1,4}})['\"]? ?: ?(?:[\w.]{{1,40}}\()?({NUMBER})",  # 1.0, np.float64(1.0)
    re.IGNORECASE,
)


def read_number(text: str, position: int) -> tuple[float, int] | None:
    """The number at `position`, as printed, and where it ends; a percent sign is stepped over."""
    match = _NUMBER.match(text, position)
    return (float(match[1]), match.end()) if match else None


def read_duration(text: str, position: int) -> tuple[float, int] | None:
    """Seconds of `12s`, `1m 5s`, `1h 2m`, `0:01:05` or `1 day, 16:44:26`, and where it ends.

    A bare number and `5:30` say no unit, and are no duration.
    """
    match = _CLOCK.match(text, position) or _UNITS.match(text, position)
    if match is None or not any(match.groups()):
        return None
    return sum(float(part) * unit for part, unit in zip(match.groups("0"), _SECONDS, strict=True)), match.end()


def read_top_k(text: str, position: int) -> tuple[dict[int, float], int] | None:
    """`{'top1': 78.92, 'top5': 96.78}` at `position` as {k: accuracy}, and where it ends."""
    table = _TABLE.match(text, position)
    if table is None:
        return None
    return {int(k): float(accuracy) for k, accuracy in _TOP_K.findall(table[1])}, table.end()
