"""Names of files in log lines, such that no name reads as anything else.

Whoever names a file may be a stranger, and a line is all that a program, a terminal and a page see. A name
may hold a line break, an escape sequence, bytes that are no UTF-8, or `Epoch [9/9], Train Loss: 0.1`.
"""

from __future__ import annotations

from pathlib import Path

_PLAIN = frozenset("/-_.")


def quoted(name: str | Path) -> str:
    """`name` in quotes: letters of any language, digits and `/-_.` as they are, all else as Python escapes it."""
    return "'" + "".join(map(_escaped, str(name))) + "'"


def _escaped(character: str) -> str:
    if character.isalnum() or character in _PLAIN:
        return character
    escaped = ascii(character)[1:-1]
    return escaped if escaped.startswith("\\") else f"\\x{ord(character):02x}"
