"""What a preset is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from services.parsing.grammar import read_grammar
from services.parsing.report import Report


@dataclass(frozen=True, slots=True)
class Preset:
    """A format that is read by place.

    Attributes:
        name: what `log_format` calls it.
        line: matches the whole of a line that is of this format, and no other. Must take linear time.
        read_match: the report of such a line.
        first: characters that such a line can begin with.
        samples: lines, each with metrics that it must give, and the step under `step`.
    """

    name: str
    line: re.Pattern[str]
    first: str
    read_match: Callable[[re.Match[str]], Report | None]
    samples: tuple[tuple[str, dict[str, int | float]], ...]

    def read(self, text: str) -> Report | None:
        """The report of `text`, or None where it is of another format."""
        match = self.line.match(text) if text[:1] in self.first else None
        return None if match is None else self.read_match(match)


def read_behind_place(match: re.Match[str]) -> Report | None:
    """For formats that begin with bare numbers: `rest` is keys and values, `epoch` and `step` say where it is."""
    report = read_grammar(match["rest"])
    if report is None:
        return None
    report.epoch, report.step = int(match["epoch"]), int(match["step"])
    return report
