"""scikit-learn's classification report: of its rows, those of all classes together."""

from __future__ import annotations

import re

from services.parsing.meaning import Meaning
from services.parsing.presets.base import Preset
from services.parsing.report import Report

_RATIO = r"([01]\.[0-9]{1,10})"


def _read(match: re.Match[str]) -> Report:
    report = Report(context="val")
    if match[1]:
        report.observe(Meaning("acc"), float(match[1]))
        return report
    average = frozenset({match[2]})
    for metric, group in (("precision", 3), ("recall", 4), ("f1", 5)):
        report.observe(Meaning(metric, None, average), float(match[group]))
    return report


CLASSIFICATION_REPORT = Preset(
    name="classification_report",
    line=re.compile(
        rf"(?:accuracy\s+{_RATIO}|(macro|micro|weighted) avg\s+{_RATIO}\s+{_RATIO}\s+{_RATIO})\s+[0-9]{{1,12}}$"
    ),
    first="amw",
    read_match=_read,
    samples=(
        ("    accuracy                           0.82       360", {"val_acc": 0.82}),
        ("   macro avg       0.81      0.79      0.80       360", {"precision": 0.81, "recall": 0.79, "macro_f1": 0.8}),
    ),
)
