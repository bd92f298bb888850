"""Values that are said in a sentence, which no key introduces.

Each row is a pattern and what its groups are. Most of them come from callbacks, whose wording is shared by
the trainers that use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from models.schemas import Stage
from services.parsing.cleaning import Message
from services.parsing.meaning import Meaning, meaning_of
from services.parsing.report import Report
from services.parsing.values import read_number

_N = r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf)"
_M = r"(?<![\w/.@-])['\"`]?([\w/.@-]{2,60})['\"`]?"


def _best(report: Report, metric: str | None, value: str | None, *, is_percent: bool = False) -> None:
    number = read_number((value or "").rstrip("."))
    meaning = meaning_of(metric) if metric else Meaning("score")
    if number is None or meaning is None or meaning.metric is None:
        return
    report.event = Stage.EPOCH_END
    report.observations = [each for each in report.observations if each.meaning.metric != "score"]
    report.observe(
        Meaning(meaning.metric, meaning.context, meaning.statistics | {"best"}, meaning.k),
        number,
        is_percent=is_percent,
    )


def _improved(report: Report, match: re.Match[str]) -> None:
    _best(report, match[1], match[2])


def _reached(report: Report, match: re.Match[str]) -> None:
    number, meaning = read_number(match[2]), meaning_of(match[1])
    if number is not None and meaning is not None and meaning.metric is not None:
        report.observe(meaning, number)
    _best(report, match[1], match[3])


def _best_checkpoint(report: Report, match: re.Match[str]) -> None:
    _best(report, match[2], match[1])
    if match[3]:
        report.best_epoch = int(match[3])


def _best_score(report: Report, match: re.Match[str]) -> None:
    _best(report, None, match[1])


def _rate(report: Report, match: re.Match[str]) -> None:
    number = read_number(match[1].rstrip("."))
    if number is not None:
        report.event = Stage.EPOCH_END
        report.observe(Meaning("lr"), number)


def _accuracy_of(report: Report, match: re.Match[str]) -> None:
    number = read_number(match[3])
    if number is not None:
        report.observations.clear()  # the number of images is none
        context = "train" if "train" in match[2].lower() else "test"
        report.observe(Meaning("acc", context), number, is_percent=bool(match[4]))


def _planned_epochs(report: Report, match: re.Match[str]) -> None:
    report.total_epochs = int(match[1])


def _planned_steps(report: Report, match: re.Match[str]) -> None:
    report.total_steps = int(match[1].replace(",", ""))


Reader = Callable[[Report, re.Match[str]], None]

_FROM = r"from \S{1,30} to"
_CHANGES = r"(?:reduc|adjust|decreas|increas|sett?|dropp?|chang)\w{0,4}"
_ON_IMAGES = r"on the .{0,20}?[0-9]{1,9} \w{0,12} ?images"

_CHANGED = ("improv", "creas")
_ROWS: tuple[tuple[str, tuple[str, ...], str, Reader], ...] = (
    ("improved", _CHANGED, rf"{_M} (?:has )?(?:improved|increased|decreased) {_FROM} {_N}", _improved),
    ("improved", _CHANGED, rf"{_M} (?:has )?(?:improved|increased|decreased) \(\S{{1,30}} ?-+> ?{_N}", _improved),
    ("improved", ("best score",), rf"metric {_M} improved\b.{{0,80}}?new best score: {_N}", _improved),
    ("not improved", ("improve from",), rf"{_M} did(?: not|n't) improve from {_N}", _improved),
    ("reached", ("reached",), rf"{_M} reached {_N} \(best {_N}\)", _reached),
    (
        "best checkpoint",
        ("best checkpoint",),
        rf"best checkpoint with {_N} {_M}(?: at ([0-9]{{1,9}}) (?:epoch|iter))?",
        _best_checkpoint,
    ),
    (
        "best model",
        ("best model",),
        rf"(?:load|restor)\w{{0,8}} best model .{{0,400}}\(score: {_N}\)",
        _best_score,
    ),
    (
        "rate changed",
        ("learning rate",),
        rf"{_CHANGES} (?:the )?learning rate(?: of group [0-9]{{1,4}})?(?: from \S{{1,30}})? to {_N}",
        _rate,
    ),
    (
        "accuracy of",
        ("accuracy of the", "accuracy for the"),
        rf"accuracy (?:of|for) the (network|model|net|classifier)s? ({_ON_IMAGES}):? ?{_N} ?(%)?",
        _accuracy_of,
    ),
    (
        "planned epochs",
        ("max_epochs=", "num epochs"),
        r"(?:max_epochs=|^ *num epochs = )([0-9]{1,9})(?:\.?$|` reached)",
        _planned_epochs,
    ),
    (
        "planned steps",
        ("optimization steps",),
        r"total optimization steps ?= ?([0-9][0-9,]{0,11})",
        _planned_steps,
    ),
)
"""What a sentence is called, words of which one is in it, its pattern, and what reads that."""
SENTENCES = tuple((words, name, re.compile(pattern, re.IGNORECASE), reader) for name, words, pattern, reader in _ROWS)


def read_sentences(message: Message, report: Report) -> None:
    """Add to `report` what a message says in whole sentences."""
    for words, name, pattern, reader in SENTENCES:
        match = pattern.search(message.text) if message.has(words) else None
        if match is not None:
            reader(report, match)
            report.rules.append(f"sentence: {name}")
