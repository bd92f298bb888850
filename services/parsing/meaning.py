"""From the words of a key to what it means: `Validation Top-5 Acc` is the accuracy, top 5, of the validation.

Pure look-ups in `vocabulary.py`. A log repeats the same few keys on every line, so each is taken apart once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from services.parsing import vocabulary

CACHED_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one key stands for.

    Attributes:
        metric: a name of `vocabulary.METRICS`, or None where only the context is given (`Train: 0.5`).
        context: `train`, `val`, `test` or None where the key does not say.
        statistics: names of `vocabulary.STATISTICS`; `step` and `epoch` where the value is of one of these; `set0`,
            `set1`, ... where validation sets are numbered.
        k: of a top-k accuracy.
    """

    metric: str | None
    context: str | None = None
    statistics: frozenset[str] = frozenset()
    k: int | None = None


def _roles(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: role for role, words in table.items() for word in words}


_CONTEXTS = _roles(vocabulary.CONTEXTS)
_METRICS = _roles(vocabulary.METRICS)
_STATISTICS = _roles(vocabulary.STATISTICS)
STATISTIC_WORDS = frozenset(_STATISTICS)
_PHRASES = sorted(((f" {phrase} ", f" {word} ") for phrase, word in vocabulary.PHRASES), key=lambda row: -len(row[0]))
_CHINESE = re.compile("|".join(sorted(vocabulary.CHINESE, key=len, reverse=True)))

_MAP = re.compile(r"(?<![a-z])m?ap[_@ ]?\[?(?:iou=)?\.?0?\.?5?0?(?:[:-]|_)0?\.?95\]?(?![a-z])", re.IGNORECASE)
_MAP50 = re.compile(r"(?<![a-z])m?ap[_@ ]?0?\.?50?(?![\w.:-])", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_APART = re.compile(r"[^a-z0-9\u4e00-\u9fff#]+")
_TOP_K = re.compile(r" (top|acc|accuracy|prec|precision) ?0?([1-9][0-9]{0,3})(?= )")
_NUMBERED_SET = re.compile(r" (valid|validation|eval|val|test) ([0-9])(?: s)?(?= )")
_NUMBERED = frozenset(f"set{number}" for number in range(10))
_COUNTERS = frozenset({"epoch", "step"})


@lru_cache(CACHED_KEYS)
def meaning_of(key: str) -> Meaning | None:
    """What `key` means, or None where any of its words is unknown or they do not make one metric."""
    found = _read(words_of(key))
    if found is not None and (found.metric or (found.context and not found.statistics)):
        return found
    if "/" not in key:
        return None
    return _in_name_space(key.split("/"))


def _in_name_space(parts: list[str]) -> Meaning | None:
    """`val/loss`, `accuracy/top1`, `metrics/recall(B)`; with a context in between, also `Loss/eval_phase/task_0`."""
    contexts = [context for part in parts if (context := context_of(part))]
    for name in (parts[-1], parts[0]) if contexts else parts[-1:]:
        inner = _read(words_of(name))
        if inner is not None and inner.metric is not None:
            return Meaning(inner.metric, inner.context or next(iter(contexts), None), inner.statistics, inner.k)
    return None


@lru_cache(CACHED_KEYS)
def is_known(label: str) -> bool:
    """Whether `label` has known words only, and more than fillers."""
    words = words_of(label)
    return _read(words) is not None and any(word not in vocabulary.FILLERS for word in words)


@lru_cache(CACHED_KEYS)
def context_of(label: str) -> str | None:
    """The context that `label` announces: `Test set`, `[Train]`, `Validation Results`; None for every other one."""
    found = _read(tuple(word for word in words_of(label) if not word.strip("#").isdecimal() and word != "#"))
    return found.context if found is not None else None


@lru_cache(CACHED_KEYS)
def statistics_of(label: str) -> frozenset[str]:
    """The statistics that words before a key announce for it: `Averaged stats`, `Best model saved`, `EMA`."""
    return frozenset(_STATISTICS[word] for word in words_of(label) if word in _STATISTICS)


@lru_cache(CACHED_KEYS)
def words_of(key: str) -> tuple[str, ...]:
    """`key` in single lower-case words, with what several words mean together as one."""
    text = key if key.isascii() else _CHINESE.sub(lambda match: f" {vocabulary.CHINESE[match[0]]} ", key)
    text = _MAP50.sub(" map50 ", _MAP.sub(" map ", text))
    text = text.replace("'s ", " ")
    text = _CAMEL.sub(" ", text.replace("mAP", "map"))
    text = _TOP_K.sub(r" \1\2", f" {_APART.sub(' ', text.lower()).strip()} ")
    text = _NUMBERED_SET.sub(r" \1 set\2", text)
    for phrase, word in _PHRASES:
        if phrase in text:
            text = text.replace(phrase, word)
    return tuple(text.split())


def _read(words: tuple[str, ...]) -> Meaning | None:
    metrics: list[str] = []
    statistics: set[str] = set()
    context, k = None, None
    for word in words:
        top_k = _top_k(word)
        if top_k is not None:
            k = top_k
        elif word in _METRICS:
            metrics.append(_METRICS[word])
        elif word in _CONTEXTS:
            context = _CONTEXTS[word]
        elif word in _STATISTICS:
            statistics.add(_STATISTICS[word])
        elif word in _NUMBERED:
            statistics.add(word)
        elif word not in vocabulary.FILLERS:
            return None
    if k is not None:
        metrics = [metric for metric in metrics if metric not in ("acc", "precision", "score")]
        metrics += [] if any(metric not in _COUNTERS for metric in metrics) else ["acc"]
    measured = [metric for metric in dict.fromkeys(metrics) if metric not in _COUNTERS]
    if len(measured) > 1 and "score" in measured:
        measured.remove("score")
    if len(measured) > 1:
        return None
    counters = [metric for metric in dict.fromkeys(metrics) if metric in _COUNTERS]
    if measured and counters:  # loss of a step, mean of an epoch
        statistics.update(counters)
    elif len(counters) > 1:
        return None
    metric = next(iter(measured or counters), None)
    return Meaning(metric, context, frozenset(statistics), k)


def _top_k(word: str) -> int | None:
    for prefix in ("top", "acc", "accuracy", "prec", "precision"):
        digits = word.removeprefix(prefix)
        if digits != word and digits.isdecimal() and len(digits) <= 4 and int(digits):
            return int(digits)
    return None
