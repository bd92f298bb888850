"""What a terminal and a logger add to a message, taken off again.

The same message arrives coloured, behind a timestamp, redrawn over an older one, or typed with an
input method's full-width punctuation. Taken off once, here, the formats themselves stay plain. Every
pattern is bounded or a single run of one character class, so the time is linear in the line.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequence: colours, cursor moves
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # operating system command: window title, hyperlink
    r"|\x1b[ -/]*[0-Z\\^-~]"  # everything shorter
)
"""Escape sequences of ECMA-48 (5th edition, section 5.4 and 5.5) and xterm."""

_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\ufeff]+")

_HALF_WIDTH = {0xFF01 + i: 0x21 + i for i in range(0x5E)} | str.maketrans("【】、。", "[],.")
"""Full-width forms (U+FF01 to U+FF5E) and Chinese punctuation, each to the ASCII character it stands for."""

_LEVEL = r"(?:debug|info|notice|warn(?:ing)?|error|critical|fatal)(?!\w)"
_NAME = r"[\w.-]{1,64}"

_PREFIX_PART = re.compile(
    r"[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}(?=[T ])T?"  # date
    r"|[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?(?!\w)"  # time of day
    r"|\[(?! ?(?:epoch|step)(?!\w))[^\[\]]{1,100}\]"  # [anything], unless it is the message itself
    rf"|(?:{_NAME}(?: ?[-|:] ?| ))?{_LEVEL}(?::{_NAME}:(?! )| - {_NAME}(?= - ))?"  # name - INFO, INFO:name:
    r"|[\w./<>-]{1,100}\.py:[0-9]{1,6}(?!\w)"  # file.py:42
    r"|[\w.<>]{1,64}:[\w<>]{1,64}:[0-9]{1,6}(?= [-|] )"  # module:function:42
    r"|[^\w\[]+|\[",  # whatever separates or decorates
    re.IGNORECASE,
)
_MAX_PREFIX_PARTS = 16


def message_of(line: str) -> str:
    """The message that a reader sees in `line`: one line of text, single spaces, no logger prefix.

    Of a line that redraws itself with carriage returns, only what is left on the terminal counts.
    """
    text = _ESCAPE.sub("", line).rstrip().rpartition("\r")[2]
    text = _BLANKS.sub(" ", text.translate(_HALF_WIDTH)).strip()
    return text[_prefix_length(text) :]


def _prefix_length(text: str) -> int:
    position = 0
    for _ in range(_MAX_PREFIX_PARTS):
        part = _PREFIX_PART.match(text, position)
        if part is None:
            break
        position = part.end()
    return position
