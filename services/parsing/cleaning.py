"""What a terminal and a logger add to a message, taken off again.

The same message arrives coloured, behind a timestamp, redrawn over an older one, or typed with an
input method's full-width punctuation. Taken off once, here, the formats themselves stay plain. Every
pattern is bounded or a single run of one character class, so the time is linear in the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from services.parsing.meaning import context_of, meaning_of

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequence: colours, cursor moves
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # operating system command: window title, hyperlink
    r"|\x1b[ -/]*[0-Z\\^-~]"  # everything shorter
)
"""Escape sequences of ECMA-48 (5th edition, section 5.4 and 5.5) and xterm."""

_UNPRINTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\ufeff]+")
_BLANK = re.compile(r"[^\S\t ]")

_HALF_WIDTH = {0xFF01 + i: 0x21 + i for i in range(0x5E)} | str.maketrans("【】、。", "[],.")
"""Full-width forms (U+FF01 to U+FF5E) and Chinese punctuation, each to the ASCII character it stands for."""

_LEVEL = r"(?:debug|info|notice|warn(?:ing)?|error|critical|fatal)(?!\w)"
_NAME = r"[A-Za-z_][\w.-]{0,63}"
_TIME = r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?(?!\w)"
_DATE = r"(?:[0-9]{4}[-/.])?[0-9]{1,2}[-/.][0-9]{1,2}(?:T|,| {1,3})(?=[0-9]{1,2}:)"

_PREFIX_PART = re.compile(
    rf"(?:{_DATE})?{_TIME}(?! ?[</])"
    rf"|[IWEF][0-9]{{4}} {_TIME} +[0-9]{{1,20}} [\w./-]{{1,64}}:[0-9]{{1,6}}\]"  # glog
    rf"|\[(?:{_DATE})?{_TIME}(?: [\w.-]{{1,64}})?\](?::(?=\S))?"
    r"|\[(?:rank|default|local_rank) ?(?P<rank>[0-9]{1,4})\](?::(?=\S))?"
    rf"|\[(?:{_LEVEL}|[\w./<>-]{{1,64}}\.py(?::[\w<>]{{1,64}}){{0,3}}|(?P<tag>{_NAME}))\](?::(?=\S))?"
    rf"|(?:(?P<name>{_NAME})(?: ?[-|:] ?| )(?-i:(?=[A-Z]{{2}}|[a-z])))?{_LEVEL}"
    rf"(?: ?:{_NAME}:(?! )| ?[-|] ?{_NAME}(?= ?[-|] ))?"
    r"|[\w./<>-]{1,100}\.py:[0-9]{1,6}(?!\w)"  # file.py:42
    r"|[\w.<>]{1,64}:(?:[\w<>]{1,64}:)?[0-9]{1,6}(?= [-|] )"  # module:function:42
    r"|[^\w\[({<.\-\u2500-\u257f]+|-(?![0-9.])",  # whatever separates or decorates
    re.IGNORECASE,
)
_SOURCE = re.compile(r" ?\| ?([a-z_][\w.]{1,63})(?= \| )", re.IGNORECASE)
_NTH = re.compile(
    r"第 ?(?P<count>[0-9]{1,9}) ?(?:/ ?(?P<total>[0-9]{1,9}) ?)?(?P<unit>轮|个?epoch|个?周期|代|步|个?批次|批|次迭代)"
    r"(?: ?[/,(]? ?共 ?(?P<all>[0-9]{1,9}) ?(?:轮|步|批|个)?\)?)?",
    re.IGNORECASE,
)
_EPOCHS = frozenset({"轮", "epoch", "个epoch", "周期", "个周期", "代"})
_MAX_PREFIX_PARTS = 16
_CUT = re.compile(r" \[cut: [0-9]{1,12} more (?:bytes|characters)\]$")
_CUT_ENDS = (" more bytes]", " more characters]")
_CUT_LENGTH = 40
_LOGGERS = frozenset({"trainer"})
"""Names of loggers that are words of a report as well."""


@dataclass(slots=True)
class Message:
    """One line as a reader sees it.

    Attributes:
        text: without the logger's prefix.
        shown: with it, and with the spaces that align a table.
        context: `train` or `val`, where the logger's name says so.
        rank: the process of a distributed training that speaks, or None.
        low: `text` in lower case, for a first look.
    """

    text: str
    shown: str
    context: str | None = None
    rank: int | None = None
    low: str = ""

    def has(self, words: Iterable[str]) -> bool:
        """Whether any of `words` is in it: far quicker than a pattern, which is tried on what passes."""
        low = self.low
        for word in words:  # noqa: SIM110 - a generator costs more than what it looks for
            if word in low:
                return True
        return False


def shown_by_terminal(line: str) -> str:
    """The text that is left on a terminal: without escape sequences, and of a redrawn line the last drawing.

    Text in front of a run of backspaces stays; what they are there for is to be drawn over.
    """
    if "\x1b" in line or "\x9b" in line:
        line = _ESCAPE.sub("", line)
    text = line.rstrip(" \t\r\n\x08").rpartition("\r")[2]
    if not text.isprintable():
        text = _BLANK.sub(" ", _UNPRINTED.sub("", text))
    return text if text.isascii() else text.translate(_HALF_WIDTH)


def whole_words(line: str, most: int) -> str:
    """The first `most` characters of a line, without the word that they end in, and without what the service says where
    it has cut a line itself: half a number is another number."""
    cut = line.endswith(_CUT_ENDS) and _CUT.search(line, max(0, len(line) - _CUT_LENGTH))
    if cut:
        line = line[: cut.start()]
    return line[:most].rpartition(" ")[0] if cut or len(line) > most else line


def read_message(line: str) -> Message:
    """`line` without what terminals and loggers put around it."""
    shown = shown_by_terminal(line)
    position, context, rank, named = 0, None, None, False
    for _ in range(_MAX_PREFIX_PARTS):
        part = _SOURCE.match(shown, position) if named else None
        if part is not None:
            context = _context_of_name(part[1]) or context
        else:
            part = _PREFIX_PART.match(shown, position)
            if part is None or (part["tag"] and _is_part_of_message(part["tag"])):
                break
            if part["rank"]:
                rank = int(part["rank"])
            if part["name"]:
                context = _context_of_name(part["name"]) or context
            named = named or part[0][-1:].isalpha()
        position = part.end()
    text = shown[position:].rstrip()
    if "第" in text:
        text = _NTH.sub(_counter, text)
    return Message(text, shown, context, rank, text.lower())


def _counter(match: re.Match[str]) -> str:
    """`第3轮/共10轮` as `epoch 3/10`."""
    total = match["total"] or match["all"]
    return f" {'epoch' if match['unit'] in _EPOCHS else 'step'} {match['count']}{f'/{total}' if total else ''} "


def _context_of_name(name: str) -> str | None:
    return None if "." in name else context_of(name)


def _is_part_of_message(tag: str) -> bool:
    """`[Train]`, `[Epoch]`: not a logger's name but a word of the report."""
    return tag.lower() not in _LOGGERS and meaning_of(tag) is not None
