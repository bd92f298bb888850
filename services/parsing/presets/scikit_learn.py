"""scikit-learn's MLPClassifier: what it calls an iteration is an epoch. It alone prints eight decimals there."""

from __future__ import annotations

import re

from services.parsing.meaning import Meaning
from services.parsing.presets.base import Preset
from services.parsing.report import Report


def _read(match: re.Match[str]) -> Report:
    report = Report(epoch=int(match[1]))
    report.observe(Meaning("loss", "train"), float(match[2]))
    return report


SCIKIT_LEARN = Preset(
    name="scikit_learn",
    line=re.compile(r"Iteration ([0-9]{1,9}), loss = ([0-9]{1,300}\.[0-9]{8}|inf|nan)$"),
    first="I",
    read_match=_read,
    samples=(("Iteration 1, loss = 2.40837729", {"epoch": 1, "train_loss": 2.40837729}),),
)
