"""The text between two numbers: which key the second one has, and what the words before the key announce.

The gaps of a log are as constant as its format: each is taken apart once and remembered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from services.parsing.meaning import (
    CACHED_KEYS,
    STATISTIC_WORDS,
    Meaning,
    context_of,
    is_known,
    meaning_of,
    statistics_of,
    words_of,
)

MAX_GAP = 400
"""Characters before a number that are looked at."""

_QUOTES = re.compile(r"[\"`]|'(?!s )")
_ASIDE = re.compile(r"(?<=\w)\s?\(([^()]{1,40})\)(?=\s*[:=]?\s*$)")
_DELIMITER = re.compile(r"[,;|\[\](){}\t<>│┃]|\s[-–—•·*/]\s|\s\s+|->|=>|[!?]|\.\s|\sat\s")
_SEPARATOR = re.compile(r"\s*[:=]\s*")
_OPENS = re.compile(r"[\[({]\s*['\"]?\s*$")
_IDENTIFIER = re.compile(r"[^\W\d][\w./%@-]{0,100}")
_BEST = frozenset({"best"})
_CELL = re.compile(r"[|│┃]")
_WORD = re.compile(r"\w")
_SNAKE = re.compile(r"\W+")
_AROUND_SEPARATOR = re.compile(r"\s*([:=])\s+|\s+([:=])(?!\w)")


@dataclass(frozen=True, slots=True)
class Key:
    """What a gap says about the number behind it.

    Attributes:
        meaning: of the key, where all of its words are known.
        name: the key itself in snake case, where it is one identifier with `:` or `=` behind it.
        context: what a label before the key announces, else None.
        statistics: what labels before the key announce.
        opens: the bracket between key and number, or "".
        is_blank: there is no key: the number stands for itself, or goes with the number before it.
        is_best: "best" alone is the key.
        is_bare: there are no words at all.
        is_phrase: the key is of several words, so that its context holds for the keys behind it:
            `val Loss: 0.5 Acc: 0.8`, but not `val_loss: 0.5 acc: 0.8`.
    """

    meaning: Meaning | None
    name: str | None
    context: str | None
    statistics: frozenset[str]
    opens: str
    is_blank: bool
    is_best: bool
    is_bare: bool
    is_phrase: bool


@lru_cache(CACHED_KEYS)
def key_of(gap: str) -> Key:
    """What `gap` says. Time is linear in the gap, of which the last `MAX_GAP` characters count."""
    text = gap[-MAX_GAP:].removeprefix("/")  # epoch=0/global_step=5
    opened = _OPENS.search(text)
    opens = opened[0].lstrip()[0] if opened else ""
    body = _AROUND_SEPARATOR.sub(r"\1\2 ", (text[: opened.start()] if opened else text) + " ").rstrip()
    body = _QUOTES.sub("", body)
    body = _ASIDE.sub(lambda match: f" {match[1]}" if is_known(match[1]) else "", body)
    fields = _DELIMITER.split(body)
    last = fields.pop() if fields else ""
    parts = _SEPARATOR.split(last)
    separated = len(parts) > 1 and not parts[-1].strip()
    if separated:
        parts.pop()
    key = parts.pop().strip(" '\"")
    if not key and opens != "(" and not separated and _CELL.search(gap):
        key, fields = _cell(fields)
    is_best = False
    if key and all(word in STATISTIC_WORDS for word in words_of(key)):  # Test: EMA [0/4]
        is_best = statistics_of(key) == _BEST
        parts += [] if is_best else [key]
        key = ""
    labels = [label for field in fields for label in _SEPARATOR.split(field)] + parts
    context, statistics = None, frozenset[str]()
    for label in labels:
        context = context_of(label.strip()) or context
        statistics |= statistics_of(label)
    meaning = meaning_of(key) if key else None
    name = None
    if meaning is None and (separated or opens == "["):
        identifier = _IDENTIFIER.fullmatch(key)
        name = _SNAKE.sub("_", key).strip("_").lower() if identifier else None
    return Key(
        meaning,
        name,
        context,
        statistics,
        opens,
        is_blank=not key,
        is_best=is_best,
        is_bare=_WORD.search(gap) is None,
        is_phrase=" " in key or not key.isascii(),
    )


def _cell(fields: list[str]) -> tuple[str, list[str]]:
    """The key of a table of two columns, `| val_acc | 0.5 |`: the field before the empty one."""
    kept = [field for field in fields if field.strip()]
    if len(kept) == 1 and _IDENTIFIER.fullmatch(kept[0].strip()):
        return kept[0].strip(), []
    return "", fields
