"""Darknet: the numbers of an iteration stand in front of their names, the loss without one."""

from __future__ import annotations

import re

from services.parsing.meaning import Meaning
from services.parsing.presets.base import Preset
from services.parsing.report import Report


def _read(match: re.Match[str]) -> Report:
    report = Report(step=int(match["step"]))
    report.observe(Meaning("loss", "train"), float(match["loss"]))
    report.observe(Meaning("loss", "train", frozenset({"avg"})), float(match["avg"]))
    report.observe(Meaning("lr"), float(match["rate"]))
    return report


_NUMBER = r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?|-?nan"

DARKNET = Preset(
    name="darknet",
    line=re.compile(
        rf"(?P<step>[0-9]{{1,9}}): (?P<loss>{_NUMBER}), (?P<avg>{_NUMBER}) avg(?: loss)?, "
        rf"(?P<rate>{_NUMBER}) rate, "
    ),
    first="0123456789",
    read_match=_read,
    samples=(
        (
            " 100: 1.234567, 1.345678 avg loss, 0.001000 rate, 2.345678 seconds, 6400 images, 1.2 hours left",
            {"step": 100, "train_loss": 1.234567, "learning_rate": 0.001},
        ),
    ),
)
