"""Tells of own patterns that match nothing: most often a typing error, which nobody would see otherwise. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.parsing import LineParser

FIRST_LINES = 200
"""By then a pattern should have matched."""

_MATCHED_NONE = " has matched none of "


class PatternWatch:
    """Watches one parser.

    Args:
        parser: whose patterns, and whose lines.
        told: what has been said before, and is not said again.
    """

    def __init__(self, parser: LineParser, told: Collection[str] = ()) -> None:
        self._parser = parser
        self._told = frozenset(told)
        self._is_over = False

    def after_line(self) -> Sequence[str]:
        """What there is to say after the line that has just been parsed; most often nothing."""
        if self._is_over or self._parser.lines < FIRST_LINES:
            return ()
        return self._say(f"the first {FIRST_LINES} lines")

    def at_the_end(self) -> Sequence[str]:
        """What there is to say of a log that is over."""
        lines = self._parser.lines
        return () if self._is_over or not lines else self._say(f"{lines} lines" if lines > 1 else "the only line")

    def _say(self, lines: str) -> Sequence[str]:
        self._is_over = True
        warnings = [f"Pattern {label!r}{_MATCHED_NONE}{lines}." for label in self._parser.unmatched()]
        return [warning for warning in warnings if warning not in self._told]


def without_pattern_warnings(warnings: Collection[str]) -> tuple[str, ...]:
    """The warnings of a task that its patterns have not caused."""
    return tuple(each for each in warnings if not (each.startswith("Pattern ") and _MATCHED_NONE in each))
