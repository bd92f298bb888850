"""The numbers of a message, each with its unit and the text before it.

A wrong number is worse than none. A number must therefore be the whole word, but for a unit: `1.2.3`,
`0.52abc`, `224x224` and `resnet18` hold none. Every number begins where the one before has ended, so the
time is linear in the message.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice

from services.parsing.vocabulary import RATE_UNITS

MAX_NUMBERS = 400
"""Numbers of a line that are looked at."""

SECONDS_OF = {
    **dict.fromkeys(("", "s", "sec", "secs", "seconds", "秒"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    "us": 1e-6,
    "ms": 0.001,
    "h": 3_600.0,
    "d": 86_400.0,
}
"""The units of a time; a bare number is seconds."""

_DIGITS = 320
"""No double needs more before its point."""
_COUNT_DIGITS = 15
"""A longer row of digits counts nothing."""


class Kind(Enum):
    NUMBER = auto()
    COUNT = auto()
    """`3/10`, `3 of 10`: a count and its total."""
    CLOCK = auto()
    """`0:01:05`, `1 day, 16:44:26`, `1m 5s`: seconds."""
    OTHER = auto()
    """Holds the place of what is a number of something else: a version, a size."""


@dataclass(slots=True)
class Value:
    """A number and its place: `gap` is all text since the number before."""

    gap: str
    kind: Kind
    number: float
    total: float | None = None
    unit: str = ""
    is_whole: bool = False

    @property
    def is_percent(self) -> bool:
        return self.unit == "%"

    @property
    def is_rate(self) -> bool:
        return self.unit in RATE_UNITS


_EXPONENT = r"(?:e[+-]?[0-9]{1,5})?"
_WHOLE = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = rf"[+-]?{_WHOLE}(?:\.[0-9]*)?{_EXPONENT}|[+-]?\.[0-9]+{_EXPONENT}"
_DAYS, _HOURS = r"[0-9]{1,6} ?d(?:ays?)? {0,3}", r"[0-9]{1,6} ?h(?:(?:ou)?rs?)? {0,3}"
_MINUTES = r"[0-9]{1,6} ?m(?:in(?:ute)?s?)? {0,3}"
_SPAN = (
    rf"(?:{_DAYS})?(?:{_HOURS})?{_MINUTES}[0-9]{{1,6}}(?:\.[0-9]{{1,9}})? ?s(?:ec(?:ond)?s?)?"
    rf"|{_DAYS}{_HOURS}(?:{_MINUTES})?|{_HOURS}(?:{_MINUTES})?"
)
_VALUE = re.compile(
    r"(?<![A-Za-z0-9_@.#-])(?:"
    r"(?:(?P<days>[0-9]{1,5})(?: days?,? ?|,))?"
    r"(?P<clock>[0-9]{1,5}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)(?![\w:]|\.[0-9])|"
    rf"(?P<span>{_SPAN})(?<! )(?![\w/])|"
    r"(?P<count>[0-9]{1,12}) {0,3}(?:/|of|out of) {0,12}(?P<total>[0-9]{1,12})(?![\w/]|[.:][0-9])|"
    rf"(?P<number>{_NUMBER}|[+-]?(?:nan|inf(?:inity)?)(?!\w))"
    r"(?: {0,3}(?P<unit>%|(?:[a-z]{1,12}(?:/[a-z]{1,12})?)?/(?:s|sec|second)(?!\w| {0,3}[:=]))"
    r"|(?P<letters>[a-zµ\u4e00-\u9fff][\w/]*))?"
    r"(?P<rest>[./:,_-]\.?[0-9][\w.:-]*)?"
    r")",
    re.IGNORECASE,
)
_SPAN_PART = re.compile(r"([0-9.]+) ?([dhms])", re.IGNORECASE)
_KNOWN_LETTERS = frozenset(
    """
    s sec secs seconds ms us m min mins h g gb gib mb mib k kb 秒 分 个 张 轮 ms/step s/step us/step it/s s/it ms/it
    """.split()  # noqa: SIM905
)
_DIGIT = re.compile(r"[0-9]|nan(?!\w)|inf(?:inity)?(?!\w)", re.IGNORECASE)
_HAS_NUMBER = re.compile(r"(?<![a-z_@-])[0-9]|nan(?!\w)|inf(?:inity)?(?!\w)", re.IGNORECASE)


def has_digit(text: str) -> bool:
    return _DIGIT.search(text) is not None


def may_hold_numbers(text: str) -> bool:
    """Whether there is a number that is not part of a name."""
    return _HAS_NUMBER.search(text) is not None


def values_of(text: str) -> tuple[list[Value], str]:
    """The numbers of `text` in order, and the text behind the last one."""
    found: list[Value] = []
    end = 0
    for match in islice(_VALUE.finditer(text), MAX_NUMBERS):
        found.append(_value(text[end : match.start()], match))
        end = match.end()
    return found, text[end:]


def _value(gap: str, match: re.Match[str]) -> Value:
    text: str | None = match["number"]
    if text is not None:
        return _number(gap, text, match)
    if match["clock"]:
        return Value(gap, Kind.CLOCK, 86_400 * float(match["days"] or 0) + seconds_of_clock(match["clock"]))
    if match["span"]:
        return Value(
            gap, Kind.CLOCK, sum(float(n) * SECONDS_OF[unit.lower()] for n, unit in _SPAN_PART.findall(match["span"]))
        )
    return Value(gap, Kind.COUNT, float(match["count"]), float(match["total"]), is_whole=True)


def _number(gap: str, text: str, match: re.Match[str]) -> Value:
    letters = (match["letters"] or "").lower()
    if match["rest"] or (letters and letters not in _KNOWN_LETTERS):
        return Value(gap, Kind.OTHER, math.nan)
    text = text.replace(",", "")
    if len(text) > _DIGITS:
        return Value(gap, Kind.OTHER, math.nan)
    unit = letters or (match["unit"] or "").lower()
    digits = text.rstrip(".")
    is_whole = digits.isdecimal() and len(digits) <= _COUNT_DIGITS
    return Value(gap, Kind.NUMBER, float(text), unit=unit, is_whole=is_whole)


def seconds_of_clock(text: str) -> float:
    """`1:02:03` is hours, minutes and seconds; `02:03` minutes and seconds."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def read_number(text: str) -> float | None:
    """The number that `text` is, as a structured value or a cell may write it."""
    text = text.strip()
    match = _VALUE.fullmatch(text)
    if match is None or match["number"] is None or match["rest"] or match["letters"] or len(text) > _DIGITS:
        return None
    return float(match["number"].replace(",", ""))
